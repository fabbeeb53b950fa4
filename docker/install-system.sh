#!/bin/sh
# Debian packages of an image, and the user that it runs as (R-I3): install-system.sh spark|ray|all
#
# Debian's security repository moves on, so versions are not pinned here: the base image's digest and the day of the
# build decide them, and a rebuild brings the fixes.
set -eu
role=${1:?install-system.sh spark|ray|all}
packages="ca-certificates make procps python3.11 python3.11-venv tini"
case "$role" in
  spark|all) packages="$packages openjdk-17-jre-headless" ;;
  ray) ;;
  *) echo "install-system.sh: there is no role $role; expected spark, ray or all." >&2; exit 2 ;;
esac
export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086  # a list of words
apt-get install -y --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
# Nothing runs as root. The number is fixed, so that volumes have one owner whatever the image.
id lensdata >/dev/null 2>&1 || useradd --uid 10001 --user-group --create-home --shell /bin/sh lensdata
install -d -o lensdata -g lensdata /work /opt/lensdata
