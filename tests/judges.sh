#!/usr/bin/env bash
# Install the programs of others that judge our DICOM output; tests that need one are skipped where it is missing.
# usage: tests/judges.sh [PYTHON]     Debian packages only as root; dcmqi goes into PYTHON's environment.
set -euo pipefail
python=${1:-python3}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
        dicom3tools dcmtk orthanc plastimatch >/dev/null
else
    echo "not root on Debian: dicom3tools, dcmtk, orthanc and plastimatch are left as they are"
fi
"$python" -m pip install --quiet dcmqi==1.5.7

for program in dciodvfy storescu getscu Orthanc plastimatch; do
    command -v "$program" >/dev/null || echo "missing: $program"
done
