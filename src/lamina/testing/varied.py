"""Twenty-five Dockerfiles that differ in what they ask of a builder, their context, and what is compared of the trees that come out."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
import textwrap
from pathlib import Path

Tree = dict[str, tuple[object, ...]]

CASES: dict[str, str] = {
    "copy-forms": """
        FROM base:1
        COPY a.txt /one/a.txt
        COPY a.txt b.txt /two/
        COPY tree /three
        COPY tree/ /three/again/
        COPY --chown=7:8 --chmod=640 a.txt /four
        COPY --chown=worker tree /five
        COPY *.txt /six/
        COPY link /seven
        COPY tree/sub/../x.sh /eight/
        """,
    "workdir-user": """
        FROM base:1
        WORKDIR /w
        RUN touch made-by-root
        USER worker
        WORKDIR deeper/still
        RUN echo hi > /tmp/h && id > /tmp/id
        COPY a.txt .
        USER 12:34
        WORKDIR /numbered
        RUN id -u > /tmp/n; id -g >> /tmp/n
        USER 0
        WORKDIR /gone/below
        RUN rm -r /gone
        USER worker
        RUN touch made-by-worker
        """,
    "multi-stage": """
        ARG TOP=3
        FROM base:1 AS build
        ARG TOP
        ARG MORE=x
        RUN mkdir -p /out/d && echo "$TOP $MORE" > /out/f && ln -s f /out/l && ln /out/f /out/hard && chmod 4755 /out/f && chown 3:4 /out/d
        FROM scratch AS empty
        COPY --from=build /out /o
        FROM base:1
        COPY --from=build /out/ /x/
        COPY --from=empty /o/f /y
        COPY --from=0 --chown=9 /out/d /z
        """,
    "run-deletes": """
        FROM base:1
        RUN mkdir -p /d/e && echo 1 > /d/1 && echo 2 > /d/2 && echo 3 > /d/e/3
        RUN rm /d/1 && rm -r /d/e && mkdir /d/e && echo new > /d/e/new && mv /d/2 /d/3 && rm -r /opt
        RUN mkfifo /d/fifo && ln -s /nowhere /d/broken && chmod 1777 /d && touch -d @0 /d/3
        RUN true
        """,
    "env-arg-config": """
        FROM base:1
        ARG V=1
        ENV A=$V B="two words" C=${V:-x}${NOPE:+y}
        LABEL one=1 "two words"="x y" v=$V
        EXPOSE 80 443/tcp 53/udp
        VOLUME /data /more
        STOPSIGNAL SIGUSR1
        HEALTHCHECK --interval=5s --retries=3 CMD test -f /x
        SHELL ["/bin/sh", "-ec"]
        RUN env | grep -v -e HOSTNAME -e SHLVL | sort > /env
        CMD ["sh", "-c", "echo $A"]
        ENTRYPOINT exec top
        ONBUILD RUN echo hello
        """,
    "shell-and-escape": """
        FROM base:1
        SHELL ["/bin/busybox", "ash", "-ec"]
        RUN echo one \\
            # a comment in the middle
            two > /one && printf '%s' "$HOME" > /two
        SHELL ["/bin/sh", "-c"]
        RUN ["sh", "-c", "echo json > /three"]
        ENV PATH=/opt/bin:$PATH
        RUN echo $PATH > /path; ln -s /bin/busybox /opt/b; chmod 711 /opt
        """,
    "add-archives": """
        FROM base:1
        ADD pack.tar.gz /unpacked/
        ADD pack.tar /also
        COPY pack.tar /kept/
        ADD a.txt /plain/
        ADD tree /tree/
        """,
    "mounts": """
        FROM base:1 AS other
        RUN mkdir /src && echo s > /src/s
        FROM base:1
        RUN --mount=type=bind,target=/ctx cp -r /ctx/tree /copied && cat /ctx/a.txt > /cat
        RUN --mount=type=bind,from=other,source=/src,target=/from,rw echo x > /from/x && cat /from/s > /s
        RUN --mount=type=tmpfs,target=/t touch /t/gone
        RUN --mount=type=cache,target=/var/c echo c > /var/c/c
        RUN ls -R / -1 2>/dev/null | grep -c gone > /count || true
        """,
    "over-existing": """
        FROM base:1
        RUN mkdir -m 700 /there && echo old > /there/a.txt && ln -s /there /alias && chown 5:6 /there
        COPY a.txt /there/
        COPY tree /there
        COPY b.txt /alias/
        COPY a.txt /etc/a.txt
        RUN echo more >> /there/a.txt
        """,
    "ignored": """
        FROM base:1
        COPY . /all
        COPY tree /tree
        """,
    "links": """
        FROM base:1
        RUN mkdir /l && cd /l && echo 1 > a && ln a b && ln -s a c && ln -s ../l/a d && ln -s /l/gone e && ln -s . self
        COPY tree/ln /l/copied
        COPY --from=base:1 /bin/ls /l/followed
        RUN ln /l/a /l/third && rm /l/b && ln -sf a /l/d
        """,
    "odd-names": r"""
        FROM base:1
        WORKDIR "/with space"
        COPY ["a.txt", "b.txt", "./"]
        RUN touch 'quote"' "apostrophe'" 'back\slash' 'ünïcödé' "$(printf 'new\nline')" ./-dash '*' .hidden && mkdir '#' '...'
        RUN echo 1 > "/with space/ünïcödé" && rm '/with space/*'
        """,
    "modes": """
        FROM base:1
        RUN umask 077 && mkdir /m && echo 1 > /m/private && umask 0 && echo 1 > /m/open && mkdir /m/all
        RUN chmod 2775 /m && echo 1 > /m/inherits && chmod 4711 /m/open && chmod 000 /m/private && chmod u+t /m/all
        COPY --chmod=0755 a.txt b.txt /m/c/
        COPY --chmod=600 tree /m/t
        """,
    "owners": """
        FROM base:1
        RUN mkdir -p /home/worker && chown -R worker:workers /home/worker && touch /o && chown 65534:65534 /o
        COPY --chown=worker:workers a.txt /home/worker/
        COPY --chown=1234 tree /home/worker/tree
        ADD --chown=:workers b.txt /home/b
        USER worker
        RUN id > /tmp/id && touch /tmp/mine && mkdir /tmp/dir && ln -s mine /tmp/dir/l
        USER 0
        RUN chown -h 5:6 /tmp/dir/l && chown 7:8 /tmp/dir && mv /tmp/mine /tmp/moved
        """,
    "replaces": """
        FROM base:1
        RUN mkdir -p /r/dir/sub && echo 1 > /r/dir/sub/f && echo 1 > /r/file && ln -s file /r/link
        RUN rm -r /r/dir && echo now-a-file > /r/dir && rm /r/file && mkdir /r/file && echo 2 > /r/file/in && rm /r/link && echo 3 > /r/link
        RUN rm -r /r/file && ln -s dir /r/file && rm /r/dir && mkdir /r/dir
        COPY a.txt /r/link
        """,
    "opaque": """
        FROM base:1
        RUN mkdir -p /q/a/b/c /q/z && echo 1 > /q/a/1 && echo 2 > /q/a/b/2 && echo 3 > /q/a/b/c/3
        RUN rm -r /q/a && mkdir -p /q/a/b && echo 4 > /q/a/b/4
        RUN rm -r /q && mkdir /q && chmod 750 /q
        RUN mkdir -p /q/a && echo 5 > /q/a/1
        """,
    "quotes-and-spaces": r"""
        FROM base:1
        ENV ONE="a b" TWO='c $ONE' THREE=d\ e
        LABEL key="with \"quotes\"" other='single "inside"' "a key"=value
        RUN printf '%s|' "$ONE" "$TWO" $THREE > /printed; echo 'it'"'"'s' \
              >> /printed && \
            true
        COPY ["tree/x.sh", "/spaced name/x y.sh"]
        """,
    "args-in-copy": r"""
        ARG DIR=tree
        FROM base:1
        ARG DIR
        ARG NAME=a
        ENV EXT=txt
        COPY ${DIR}/ /v/
        COPY ${NAME}.$EXT /v/${NAME:-none}.${EXT}x
        ONBUILD COPY nothing /
        LABEL name="$NAME" dir='$DIR'
        """,
    "target-and-empty-stages": """
        FROM base:1 AS unused
        RUN false
        FROM base:1 AS base2
        RUN echo 2 > /two
        FROM base2 AS nothing
        FROM nothing
        COPY --from=base2 /two /three
        COPY --from=base2 /opt /opt2
        """,
    "many-layers": "FROM base:1\n" + "".join(f"RUN echo {n} > /n && echo {n} >> /all\n" for n in range(12)),
    "exec-forms": r"""
        FROM base:1
        RUN ["/bin/busybox", "touch", "/no shell"]
        RUN ["/bin/sh", "-c", "echo \"$0\" > /zero", "arg zero"]
        SHELL ["/bin/busybox", "sh", "-c"]
        RUN echo $0 > /shell
        ENTRYPOINT ["/bin/sh"]
        CMD ["-c", "true"]
        """,
    "wildcards": """
        FROM base:1
        COPY ?.txt /w/
        COPY t*/x.sh /w/x
        COPY tree/s* /w/s/
        COPY [ab].txt tree/su?/de* /w/both/
        COPY a.txt absent* /w/optional/
        COPY tree/absent* /w/none/
        """,
    "sparse-and-large": """
        FROM base:1
        RUN dd if=/dev/zero of=/sparse bs=1 count=1 seek=3000000 && dd if=/dev/zero bs=1k count=300 | tr '\\0' x > /dense
        RUN truncate -s 5000000 /sparse && echo end >> /dense
        """,
    "environment-chain": """
        FROM base:1 AS one
        ENV A=1 PATH=/one:$PATH
        LABEL from=one
        USER worker
        WORKDIR /w
        FROM one
        ENV A=${A}2 B="$A"
        LABEL from=two
        RUN echo "$A $B $PATH $PWD $(id -u)" > /tmp/seen
        WORKDIR ../x
        RUN pwd > /tmp/pwd
        """,
    "tmp-and-home": """
        FROM base:1
        RUN echo "$HOME" > /tmp/root && cd && pwd >> /tmp/root && ls -ld /tmp /root >/dev/null
        USER worker
        RUN echo "$HOME" > /tmp/worker; mkdir -p /tmp/w/x && chmod 1770 /tmp/w
        """,
}


def write(folder: Path, name: str) -> None:
    """The context and the Dockerfile of a case."""
    write_context(folder)
    (folder / "Dockerfile").write_text(textwrap.dedent(CASES[name]).lstrip())


def write_context(folder: Path) -> None:
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "empty").mkdir()
    (folder / "a.txt").write_text("alpha\n")
    (folder / "b.txt").write_text("beta\n")
    (folder / "tree" / "x.sh").write_text("#!/bin/sh\n")
    (folder / "tree" / "x.sh").chmod(0o755)
    (folder / "tree" / "sub" / "deep").write_bytes(b"\0" * 5000)
    (folder / "tree" / "sub" / "private").write_text("p")
    (folder / "tree" / "sub" / "private").chmod(0o600)
    (folder / "tree" / "ln").symlink_to("sub/deep")
    (folder / "tree" / "up").symlink_to("../a.txt")
    (folder / "link").symlink_to("tree/x.sh")
    (folder / "secret.key").write_text("no\n")
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "m").write_text("m")
    (folder / "node_modules" / "keep").write_text("k")
    (folder / ".dockerignore").write_text("*.key\nnode_modules\n!node_modules/keep\n.dockerignore\nDockerfile\n")
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for path, mode, data in (("p/one", 0o644, b"1"), ("p/two", 0o4755, b"22")):
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.uid, info.gid = len(data), mode, 11, 12
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("p/link")
        link.type, link.linkname = tarfile.SYMTYPE, "one"
        archive.addfile(link)
    (folder / "pack.tar").write_bytes(body.getvalue())
    (folder / "pack.tar.gz").write_bytes(gzip.compress(body.getvalue(), mtime=0))


def base_tar(folder: Path) -> Path:
    """A root file system that both builders import: busybox, its links, two users."""
    root = folder / "root"
    for name in ("bin", "etc", "tmp", "opt/pkg", "root", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "opt/pkg/file").write_text("opt\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1001::/home/worker:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nworkers:x:1001:worker\n")
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    target = folder / "base.tar"
    subprocess.run(["tar", "-C", str(root), "--numeric-owner", "--owner=0", "--group=0", "-cf", str(target), "."], check=True)
    return target


def tree(tar: bytes) -> Tree:
    """path -> everything that is compared."""
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            path = member.name.strip("/").removeprefix("./") or "."
            if path in (".", "dev", "proc", "sys", "etc/hosts", "etc/resolv.conf", "etc/hostname") or path.startswith("dev/"):
                continue
            mode = member.mode & 0o7777
            ids = (member.uid, member.gid)
            extra = tuple(sorted((k, v) for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr")))
            if member.isreg() or member.islnk():
                data = archive.extractfile(member)
                assert data is not None
                body = data.read()
                found[path] = ("file", mode, ids, len(body), hashlib.sha256(body).hexdigest(), extra)
            elif member.issym():
                found[path] = ("link", ids, member.linkname)
            else:
                found[path] = (member.type, mode, ids, extra)
    return found
