#!/bin/sh
# Starts nginx, and has it load its certificate again whenever the volume holds
# a new one. Usage: run.sh DIRECTORY [ARGUMENT OF NGINX...]
set -u
dir=$1
shift

# Before nginx reads the files, so that no change is missed between the two.
loaded=$(readlink "$dir/..data")
nginx "$@" -g 'daemon off;' &
pid=$!
trap 'kill -QUIT "$pid"' TERM INT QUIT

while kill -0 "$pid" 2>/dev/null; do
  sleep 1
  now=$(readlink "$dir/..data")
  [ "$now" != "$loaded" ] || continue
  # nginx reads the certificate and the key one after the other. If the volume
  # changes in between, they do not fit: -t says so, nginx keeps the earlier
  # ones, and the next look tries again.
  if nginx "$@" -q -t && kill -HUP "$pid"; then
    echo "loaded the certificate of $now" >&2
    loaded=$now
  fi
done
wait "$pid"
