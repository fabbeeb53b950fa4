#!/bin/sh
# The Python environment of an image in /opt/lensdata/venv (R-I3): install-python.sh spark|ray|all
#
# Run in /opt/lensdata, beside pyproject.toml and the lists. Exactly the locked versions, nothing resolved; torch by
# itself, so that it brings what its platform needs: CUDA on x86-64 and aarch64, or a CPU build with TORCH_INDEX_URL.
set -eu
role=${1:?install-python.sh spark|ray|all}
case "$role" in
  spark|ray) list=docker/requirements-$role.txt ;;
  all) list=requirements.lock ;;
  *) echo "install-python.sh: there is no role $role; expected spark, ray or all." >&2; exit 2 ;;
esac
python3.11 -m venv venv
pip() { venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --no-cache-dir --no-deps -r "$list"
if [ "$role" != spark ]; then
  pip install --quiet --no-cache-dir -c requirements.lock ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
    torch==2.13.0 torchvision==0.28.0
fi
