// What users of dockerode do, against one engine: `node session.cjs FOLDER-OF-node_modules SOCKET BASE.TAR REGISTRY-OR-""`. One line for each
// part: "ok NAME", or "failed NAME: why". Every wait ends with what it waits for, or with the engine's end of the connection.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { PassThrough, Readable } = require('node:stream');
const { finished } = require('node:stream/promises');
const zlib = require('node:zlib');

const [folder, socketPath, base, registry] = process.argv.slice(2);
const library = name => require(path.join(folder, 'node_modules', name));
const Docker = library('dockerode');
const tarStream = library('tar-stream');
const docker = new Docker({ socketPath });

const progress = stream => new Promise((resolve, reject) => docker.modem.followProgress(stream, (error, rows) => (error ? reject(error) : resolve(rows))));

function pack(files) {
  const archive = tarStream.pack();
  for (const [name, data] of Object.entries(files)) archive.entry({ name }, data);
  archive.finalize();
  return archive;
}

async function unpack(stream) {
  const found = {};
  const archive = tarStream.extract();
  archive.on('entry', async (header, entry, next) => {
    const parts = [];
    for await (const part of entry) parts.push(part);
    found[header.name] = Buffer.concat(parts).toString();
    next();
  });
  await finished(stream.pipe(archive));
  return found;
}

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
}

// Both outputs of a framed stream, as text, once it has ended.
async function frames(stream) {
  const out = new PassThrough();
  const err = new PassThrough();
  docker.modem.demuxStream(stream, out, err);
  const both = Promise.all([collect(out), collect(err)]);
  await finished(stream, { writable: false });
  out.end();
  err.end();
  return both;
}

const until = (stream, wanted) =>
  new Promise((resolve, reject) => {
    let said = '';
    stream.on('data', piece => {
      said += piece.toString();
      if (said.includes(wanted)) resolve(said);
    });
    stream.on('end', () => reject(new Error(`ended without ${wanted}: ${said}`)));
    stream.on('error', reject);
  });

const parts = {
  async 'ping, version, info'() {
    assert.equal((await docker.ping()).toString(), 'OK');
    assert.equal((await docker.version()).ApiVersion, '1.41');
    assert.equal((await docker.info()).OSType, 'linux');
    assert.ok(Array.isArray((await docker.df()).Images));
  },

  async 'an image from a tar'() {
    const said = await progress(await docker.importImage(base, { repo: 'busybox', tag: 'latest' }));
    assert.match(said.at(-1).status, /^sha256:/);
    assert.deepEqual((await docker.getImage('busybox').inspect()).RepoTags, ['busybox:latest']);
  },

  async 'build from a stream of a tar, gzipped and as files of a folder'() {
    const files = { Dockerfile: 'FROM busybox\nARG WHO=nobody\nLABEL for=$WHO\nRUN echo hello > /made\nCMD cat /made\n' };
    const said = await progress(await docker.buildImage(pack(files).pipe(zlib.createGzip()), { t: 'made:1', buildargs: { WHO: 'you' } }));
    const text = said.map(row => row.stream ?? '').join('');
    assert.match(text, /Step 4\/5 : RUN echo hello > \/made/);
    assert.match(text, /Successfully tagged made:1/);
    assert.equal(said.find(row => row.aux)?.aux.ID, (await docker.getImage('made:1').inspect()).Id);
    assert.deepEqual((await docker.getImage('made:1').inspect()).Config.Labels, { for: 'you' });
    const place = fs.mkdtempSync(path.join(path.dirname(base), 'context-'));
    fs.writeFileSync(path.join(place, 'Dockerfile'), 'FROM busybox\nCOPY . /c\nRUN test -e /c/a && ! test -e /c/left\n');
    fs.writeFileSync(path.join(place, 'a'), 'a');
    fs.writeFileSync(path.join(place, 'left'), '');
    fs.writeFileSync(path.join(place, '.dockerignore'), 'left\n');
    const again = await progress(await docker.buildImage({ context: place, src: ['Dockerfile', 'a', 'left', '.dockerignore'] }, { t: 'made:2' }));
    assert.match(again.map(row => row.stream ?? '').join(''), /Successfully tagged made:2/);
    const failed = await progress(await docker.buildImage(pack({ Dockerfile: 'FROM busybox\nRUN exit 3\n' }), {}));
    assert.deepEqual([failed.at(-1).errorDetail.code, /non-zero code: 3/.test(failed.at(-1).error)], [3, true]);
  },

  async 'build by BuildKit with a session for logins'() {
    const files = { Dockerfile: 'FROM busybox\nRUN --mount=type=cache,target=/k echo from buildkit\nCOPY a /a\n', a: 'a' };
    const stream = await docker.buildImage(pack(files), { t: 'made:3', version: '2' });
    const rows = await new Promise((resolve, reject) => docker.followProgress(stream, (error, found) => (error ? reject(error) : resolve(found))));
    const text = rows.map(row => row.stream ?? '').join('');
    assert.match(text, /from buildkit/);
    assert.equal((await docker.getImage('made:3').inspect()).RootFS.Layers.length, 3);
  },

  async 'push, pull, search by name, tag, history, remove'() {
    if (!registry) return;
    const name = `${registry}/dockerode/made`;
    await docker.getImage('made:1').tag({ repo: name, tag: '1' });
    const id = (await docker.getImage(`${name}:1`).inspect()).Id;
    await progress(await docker.getImage(`${name}:1`).push());
    await docker.getImage(`${name}:1`).remove();
    await assert.rejects(docker.getImage(`${name}:1`).inspect(), error => error.statusCode === 404);
    const said = await progress(await docker.pull(`${name}:1`));
    assert.match(said.map(row => row.status).join('\n'), /Digest: sha256:/);
    assert.equal((await docker.getImage(`${name}:1`).inspect()).Id, id);
    assert.equal((await docker.listImages({ filters: { reference: [`${name}:*`] } })).length, 1);
    assert.match((await docker.getImage(`${name}:1`).history())[0].CreatedBy, /CMD/);
    assert.match((await docker.getImage(`${name}:1`).distribution()).Descriptor.digest, /^sha256:/);
  },

  async 'save and load'() {
    const data = fs.createWriteStream(path.join(path.dirname(base), 'saved.tar'));
    await finished((await docker.getImage('made:1').get()).pipe(data));
    await docker.getImage('made:1').remove();
    const said = await progress(await docker.loadImage(fs.createReadStream(data.path)));
    assert.match(said.map(row => row.stream ?? '').join(''), /made:1/);
  },

  async 'create, attach, start, wait'() {
    const container = await docker.createContainer({
      Image: 'busybox', Cmd: ['sh', '-c', 'read line; echo "out $line"; echo err >&2; exit 3'], OpenStdin: true, StdinOnce: true,
    });
    const stream = await container.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
    const said = frames(stream);
    await container.start();
    stream.end('typed\n');
    assert.deepEqual(await said, ['out typed\n', 'err\n']);
    assert.deepEqual((await container.wait()).StatusCode, 3);
    assert.equal((await container.inspect()).State.ExitCode, 3);
    await container.remove();
  },

  async 'run with a terminal'() {
    const out = new PassThrough();
    const said = collect(out);
    const [result, container] = await docker.run('busybox', ['sh', '-c', 'tty; stty size'], out, { Tty: true, HostConfig: { ConsoleSize: [20, 60] } });
    assert.equal(result.StatusCode, 0);
    assert.match(await said, /\/dev\/(pts|console)/);
    await container.resize({ h: 10, w: 20 }).catch(error => assert.equal(error.statusCode, 409));
    await container.remove();
  },

  async 'logs that follow, and of a past moment'() {
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second'] });
    await container.start();
    const stream = await container.logs({ follow: true, stdout: true, stderr: true });
    await until(stream, 'first');
    const rest = until(stream, 'second');
    await container.putArchive(pack({ go: '' }), { path: '/' });
    await rest;
    await container.wait();
    assert.match((await container.logs({ stdout: true, timestamps: true, tail: 1 })).toString('latin1'), /\d{4}-\d\d-\d\dT.*second\n/);
    await container.remove();
  },

  async 'exec with standard input, and its exit code'() {
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['sleep', '1000'], StopSignal: 'SIGKILL' });
    await container.start();
    const exec = await container.exec({ Cmd: ['sh', '-c', 'cat; echo "$A" >&2; exit 4'], Env: ['A=b'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
    const stream = await exec.start({ hijack: true, stdin: true });
    const said = frames(stream);
    stream.end('given\n');
    assert.deepEqual(await said, ['given\n', 'b\n']);
    assert.equal((await exec.inspect()).ExitCode, 4);
    await container.remove({ force: true });
  },

  async 'stats as a stream, top, pause'() {
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['sleep', '1000'], StopSignal: 'SIGKILL' });
    await container.start();
    const stream = await container.stats({ stream: true });
    const found = JSON.parse((await until(stream, '\n')).split('\n')[0]);
    stream.destroy();
    assert.equal(found.id, container.id);
    assert.ok(found.cpu_stats.cpu_usage.total_usage >= 0);
    assert.equal(typeof (await container.stats({ stream: false })).pids_stats.current, 'number');
    assert.match((await container.top({ ps_args: 'aux' })).Processes.flat().join(' '), /sleep 1000/);
    await container.pause();
    assert.equal((await container.inspect()).State.Status, 'paused');
    await container.unpause();
    await container.rename({ name: 'renamed' });
    assert.equal((await docker.listContainers({ filters: { name: ['renamed'] } }))[0].Id, container.id);
    await container.stop();
    await container.restart();
    await container.kill();
    await container.remove({ force: true });
  },

  async 'events of what happens, and of what has'() {
    const stream = await docker.getEvents({ filters: { type: ['container'], event: ['create', 'destroy'] } });
    const told = until(stream, '"destroy"');
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['true'], Labels: { of: 'dockerode' } });
    await container.remove();
    const rows = (await told).trim().split('\n').map(row => JSON.parse(row));
    stream.destroy();
    assert.deepEqual(rows.map(row => row.Action), ['create', 'destroy']);
    assert.equal(rows[0].Actor.Attributes.of, 'dockerode');
    const past = await docker.getEvents({ since: Math.floor(rows[0].time) - 1, until: rows[1].time + 1, filters: { container: [container.id] } });
    assert.match(await collect(past), /"create"[^]*"destroy"/);
  },

  async 'networks with names'() {
    const network = await docker.createNetwork({ Name: 'of-dockerode', Labels: { a: 'b' } });
    const server = await docker.createContainer({
      Image: 'busybox', name: 'server', Cmd: ['nc', '-l', '-p', '80', '-e', 'echo', 'from the server'], HostConfig: { NetworkMode: 'of-dockerode' }, StopSignal: 'SIGKILL',
    });
    await server.start();
    const asking = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'until nc server 80 </dev/null; do sleep 0.05; done'], HostConfig: { NetworkMode: 'none' } });
    await docker.getNetwork('none').disconnect({ Container: asking.id });
    await network.connect({ Container: asking.id });
    await asking.start();
    assert.equal((await asking.wait()).StatusCode, 0);
    assert.match((await asking.logs({ stdout: true })).toString('latin1'), /from the server/);
    assert.equal((await docker.listNetworks({ filters: { label: ['a=b'] } })).length, 1);
    await asking.remove();
    await server.remove({ force: true });
    await network.remove();
  },

  async 'volumes, archives out and in'() {
    const volume = await docker.createVolume({ Name: 'of-dockerode' });
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['cp', '/tmp/in', '/v/out'], HostConfig: { Binds: [`${volume.name ?? 'of-dockerode'}:/v`] } });
    await container.putArchive(pack({ in: 'through' }), { path: '/tmp' });
    await container.start();
    assert.equal((await container.wait()).StatusCode, 0);
    assert.deepEqual(await unpack(await container.getArchive({ path: '/v/out' })), { out: 'through' });
    const info = await container.infoArchive({ path: '/v/out' });
    assert.equal(JSON.parse(Buffer.from(info.headers['x-docker-container-path-stat'], 'base64').toString()).size, 7);
    assert.ok((await container.changes()).some(change => change.Path === '/tmp/in'));
    const made = await container.commit({ repo: 'committed', changes: 'LABEL x=y' });
    assert.equal((await docker.getImage('committed').inspect()).Id, made.Id);
    await container.remove({ v: true });
    assert.equal((await docker.listVolumes()).Volumes.some(each => each.Name === 'of-dockerode'), true);
    await docker.getVolume('of-dockerode').remove();
  },

  async 'prune'() {
    const container = await docker.createContainer({ Image: 'busybox', Cmd: ['true'] });
    await docker.createNetwork({ Name: 'unused' });
    assert.deepEqual((await docker.pruneContainers()).ContainersDeleted, [container.id]);
    assert.deepEqual((await docker.pruneNetworks()).NetworksDeleted, ['unused']);
    await docker.pruneVolumes();
    await docker.pruneImages({ filters: { dangling: { false: true } } });
    assert.deepEqual(await docker.listImages(), []);
    assert.ok('SpaceReclaimed' in (await docker.pruneBuilder()));
  },
};

(async () => {
  let failed = 0;
  for (const [name, part] of Object.entries(parts)) {
    const began = Date.now();
    try {
      await part();
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`failed ${name}: ${error.stack}`);
    }
  }
  process.exit(failed ? 1 : 0);
})();
