#!/bin/bash
# Starts PostgreSQL on the volume, which it makes a database of the first time.
set -e
data=/var/lib/postgresql/data
programs=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e $data/PG_VERSION ]; then
    "$programs/initdb" --pgdata=$data --locale=C.UTF-8 --auth=scram-sha-256 --username=postgres --pwfile=<(echo "$PASSWORD")
    echo "host all all all scram-sha-256" >>$data/pg_hba.conf
fi
exec "$programs/postgres" -D $data -c listen_addresses='*' -c jit=off -c unix_socket_directories=/tmp
