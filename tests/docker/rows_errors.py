"""Bad input: each a clear error with Docker's status and exit code, and nothing half-made afterwards."""

from harness import Row

# Asks the engine directly: method, path, body; prints status and whether the body is Docker's {"message": …}.
ASK = (
    'ask() { curl -s --unix-socket $SOCKET -o $W/body -w "%{http_code} " -X $1 -H "Content-Type: application/json" '
    '${3:+-d "$3"} http://engine$2; grep -o \'"message":\' $W/body | head -1; }; '
)

ROWS = [
    Row("unknown image", 'docker create --pull never nosuch:image true; echo $?', error="no such image", clients=["cli20", "cli28"]),
    Row("unknown image over the API", ASK + 'ask POST /v1.41/containers/create \'{"Image":"nosuch:image","Cmd":["true"]}\''),
    Row("bad reference", 'docker run --rm "Bad//Name" true; echo $?', error="invalid reference"),
    Row("malformed json", ASK + 'ask POST /v1.41/containers/create "{not json"; ask POST /v1.41/containers/create "[1]"; ask POST /v1.41/containers/create ""', differs="Docker 20.10 answers 500, later versions 400", expect='^(400 "message":\n){3}$'),
    Row("wrong types", ASK + 'ask POST /v1.41/containers/create \'{"Image":5}\'; ask POST /v1.41/containers/create \'{"Image":"busybox:test","HostConfig":{"Memory":"much"}}\'', differs="Docker 20.10 answers 500, later versions 400", expect='^(400 "message":\n){2}$'),
    Row("no command", ASK + 'ask POST /v1.41/containers/create \'{"Cmd":["true"]}\'', differs="the status for an empty image name changed between versions of Docker"),
    Row("unknown container", ASK + 'for p in start stop kill pause unpause restart wait rename?name=x; do ask POST /v1.41/containers/nosuch/$p; done; ask GET /v1.41/containers/nosuch/json; ask GET /v1.41/containers/nosuch/logs?stdout=1; ask DELETE /v1.41/containers/nosuch; ask GET /v1.41/containers/nosuch/top; ask POST /v1.41/containers/nosuch/exec \'{"Cmd":["true"]}\''),
    Row("unknown exec", ASK + 'ask POST /v1.41/exec/nosuch/start "{}"; ask GET /v1.41/exec/nosuch/json'),
    Row("unknown path", ASK + 'ask GET /v1.41/nosuch; ask POST /v1.41/containers/json; ask GET /v1.99/_ping; ask GET /v1.5/info'),
    Row("statuses of states", ASK + 'docker create --name $N $B sleep 60 >/dev/null; ask POST /v1.41/containers/$N/kill; ask POST /v1.41/containers/$N/stop; ask POST /v1.41/containers/$N/start; ask POST /v1.41/containers/$N/start; ask DELETE /v1.41/containers/$N; ask POST /v1.41/containers/$N/pause; ask POST /v1.41/containers/$N/pause; ask POST /v1.41/containers/$N/unpause; ask POST "/v1.41/containers/$N/stop?t=1"; ask DELETE /v1.41/containers/$N'),
    Row("name in use", 'docker create --name $N $B true >/dev/null; docker create --name $N $B true; echo $?; docker ps -aq -f name=$N | wc -l', error="already in use"),
    Row("bad name", 'docker create --name "a b" $B true; echo $?; docker create --name x $B true; echo $?', error="invalid container name"),
    Row("port in use", 'docker run -d --name $N -p 8101:80 $B sleep 60 >/dev/null; docker run -d --name $N-two -p 8101:80 $B sleep 60 >/dev/null; echo $?; docker inspect -f "{{.State.Status}}" $N $N-two; docker rm -f $N >/dev/null; docker start $N-two; echo $?', error="already allocated"),
    Row("port of the host", 'python3 -c "import socket, time; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind((\'0.0.0.0\', 8102)); s.listen(); time.sleep(60)" & until_true "(: </dev/tcp/127.0.0.1/8102)"; docker run -d --name $N -p 8102:80 $B sleep 60 >/dev/null; echo $?; kill %1', error="address already in use|already allocated"),
    Row("bad ports", 'docker run -p 99999:80 $B true; echo $?; docker run -p 80:x $B true; echo $?; docker run -p 10-12:1-2 $B true; echo $?', error="invalid"),
    Row("command not found leaves created", 'docker run --name $N $B no-such-command; echo $?; docker inspect -f "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}" $N; docker rm $N', error="not found"),
    Row("missing bind source over the API", ASK + 'ask POST /v1.41/containers/create \'{"Image":"busybox:test","HostConfig":{"Mounts":[{"Type":"bind","Source":"/no/such","Target":"/m"}]}}\''),
    Row("relative bind", 'docker run --rm -v ./rel:/m $B true; echo $?', differs="the client of version 28 resolves relative paths, that of 20.10 does not"),
    Row("bad mount target", 'docker run --rm -v /tmp:rel $B true; echo $?; docker run --rm -v /tmp:/ $B true; echo $?', error="invalid"),
    Row("bad mount mode", 'docker run --rm -v /tmp:/m:nosuch $B true; echo $?', error="invalid mode"),
    Row("duplicate mount", 'docker run --rm -v $W:/m -v $W:/m $B true; echo $?; docker run --rm -v $W:/m -v /tmp:/m $B true; echo $?', error="duplicate mount point"),
    Row("impossible memory", 'docker run --rm -m 1m $B true; echo $?; docker run --rm -m 64m --memory-swap 32m $B true; echo $?', error="minimum memory|larger than memory"),
    Row("impossible cpus", 'docker run --rm --cpus 4096 $B true; echo $?; docker run --rm --cpuset-cpus 4095 $B true; echo $?', error="range of cpus|cpus available|requested cpus"),
    Row("impossible shm", 'docker run --rm --shm-size=-1 $B true; echo $?', error="invalid size|SHM size"),
    Row("bad ulimit", 'docker run --rm --ulimit nosuch=1 $B true; echo $?; docker run --rm --ulimit nofile=9:1 $B true; echo $?', error="ulimit"),
    Row("bad capability", 'docker run --rm --cap-add NOSUCH $B true; echo $?', error="capability"),
    Row("bad sysctl", 'docker run --rm --sysctl kernel.core_pattern=x $B true; echo $?', error="sysctl|not in a separate|not allowed|not whitelisted"),
    Row("bad device", 'docker run --rm --device /dev/nosuch $B true; echo $?', error="no such file|error gathering device information"),
    Row("bad security option", 'docker run --rm --security-opt nosuch=1 $B true; echo $?', error="invalid --security-opt|security-opt"),
    Row("bad network", 'docker run --rm --network nosuch $B true; echo $?', error="network nosuch not found"),
    Row("bad network container", 'docker run --rm --network container:nosuch $B true; echo $?', error="no such container"),
    Row("ports with host network container", 'docker run -d --name $N $B sleep 60 >/dev/null; docker run --rm --network container:$N -h x $B true; echo $?', error="conflicting options"),
    Row("uid overflow", 'docker run --rm -u 4294967296 $B id -u; echo $?; docker run --rm -u 2147483648 $B id -u; echo $?', error="uids and gids must be|unable to find user"),
    Row("restart policy with rm", 'docker run --rm --restart always $B true; echo $?', error="conflicting options"),
    Row("bad log tail", 'docker run --name $N $B echo hi; docker logs --tail nosuch $N; echo $?', differs="Docker reads an unreadable number as all lines; both print the line"),
    Row("bad stop timeout", ASK + 'ask POST /v1.41/containers/nosuch/stop?t=x; ask GET "/v1.41/containers/json?filters=notjson"; ask GET "/v1.41/containers/json?limit=x"', differs="Docker 20.10 answers 500 to an unreadable number in one place and 400 in another"),
    Row("oversized body", ASK + 'head -c 9000000 /dev/zero | tr "\\0" " " >$W/big; curl -s --unix-socket $SOCKET -o /dev/null -w "%{http_code}\n" -H "Content-Type: application/json" --data-binary @$W/big http://engine/v1.41/containers/create', differs="Docker reads the whole body; a bounded server may answer 413", expect="^4"),
    Row("goes on after errors", 'docker run -d --name $N $B sleep 60 >/dev/null; docker run --rm $B no-such-command >/dev/null 2>&1; docker run --rm -u nosuch $B true >/dev/null 2>&1; docker exec $N echo alive'),
    Row("capabilities as a text", ASK + 'ask POST /v1.41/containers/create?name=$N-a "{\\"Image\\":\\"busybox:test\\",\\"HostConfig\\":{\\"CapAdd\\":\\"SYS_TIME\\",\\"CapDrop\\":\\"NET_RAW\\"}}"; docker inspect -f "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}" $N-a'),
    Row("names by expression", 'for n in web-1 web-2 db-1; do docker create --name $N-$n $B true >/dev/null; done; f() { docker ps -a --format "{{.Names}}" --filter "name=$1" | sort; echo "--"; }; f "web-[0-9]"; f "^$N-db-1$"; f "(web|db)-1$"; f "^/$N-web"; f "^web"; f "web.1"; f "("; docker volume create $N-va >/dev/null; docker volume create $N-vb >/dev/null; docker volume ls -q --filter "name=v[b-c]$"; docker volume rm $N-va $N-vb >/dev/null'),
    Row("references by class", 'docker tag $B $N:a1; docker tag $B $N:b1; f() { docker images --format "{{.Repository}}:{{.Tag}}" --filter "reference=$1" | sort; echo "--"; }; f "$N:[a]1"; f "$N:[^a]1"; f "$N:[a-c]?"; f "$N:[b-"; f "t-*:a1"; docker rmi $N:a1 $N:b1 >/dev/null'),
    Row("flags not taken silently", 'docker run --rm --use-api-socket $B true; echo $?', differs="Docker's client binds the socket", expect="^125$", clients=("naru",)),
]
