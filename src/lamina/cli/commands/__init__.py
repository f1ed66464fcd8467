"""One file per command; each exports `command`. Imported by cli/group.py when it is called."""
