#!/bin/bash
# Runs the same commands with Docker's client and with naru's against one dockerd; prints every difference in standard
# output or exit code. Usage: cli_parity.sh NARU DOCKER ; DOCKER_HOST names a dockerd that has busybox:latest.
naru=$1 docker=$2 passed=0 failed=0
normalise() { sed -E 's/[0-9a-f]{64}/ID64/g; s/\b[0-9a-f]{12}\b/ID12/g; s/[0-9]+ (seconds?|minutes?) ago/AGO/g; s/About a minute ago|Less than a second ago/AGO/g; s/Up [A-Za-z0-9 ]+(second|seconds|minute)/UP/g; s/ +/ /g; s/(naru|docker)-case/case/g'; }
check() {
    local expected actual
    expected=$(eval "${1//CLI/$docker}" 2>/dev/null </dev/null; echo "exit $?")
    actual=$(eval "${1//CLI/$naru}" 2>/dev/null </dev/null; echo "exit $?")
    if [ "$(normalise <<<"$expected")" = "$(normalise <<<"$actual")" ]; then passed=$((passed + 1)); else
        failed=$((failed + 1)); echo "DIFFERS: $1"; diff <(normalise <<<"$expected") <(normalise <<<"$actual"); fi
}
run="CLI run --rm --network none"
$docker run -d --network none --name parity -l a=b -e X=1 busybox sleep 300 >/dev/null
while IFS= read -r line; do [ -n "$line" ] && check "$line"; done <<EOT
$run busybox echo hi
$run busybox sh -c 'echo out; echo err >&2; exit 7'
$run busybox nonexistent
$run busybox /etc/passwd
$run -e A=1 -e B busybox env
$run -w /tmp -u 1000:1000 busybox sh -c 'pwd; id -u'
$run -m 64m --hostname h busybox hostname
$run --entrypoint /bin/echo busybox x y
$run --tmpfs /t --read-only busybox sh -c 'touch /t/a && touch /b'
$run -v /tmp:/host:ro busybox ls -d /host
echo input | $run -i busybox cat
$run --mount type=bind,src=/tmp busybox true
$run --nope busybox
$run --memory x busybox
CLI run
CLI run -it --rm busybox true
CLI ps
CLI ps -q --no-trunc
CLI ps -a --format '{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}}'
CLI ps --format 'table {{.ID}}\t{{.Names}}\t{{.Networks}}'
CLI ps --filter name=parity --format '{{json .Names}}'
CLI images
CLI images -q
CLI images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
CLI image ls --no-trunc
CLI history busybox
CLI inspect parity
CLI inspect -f '{{.State.Running}} {{json .Config.Env}} {{.HostConfig.NetworkMode}}' parity
CLI inspect -f '{{range \$k, \$v := .Config.Labels}}{{\$k}}={{\$v}}{{end}}' parity
CLI inspect -f '{{.Nope}}' parity | tr -d '\\n'
CLI inspect nothing
CLI image inspect busybox
CLI exec parity echo hi
CLI exec parity sh -c 'exit 9'
CLI exec parity nope
CLI exec nothing true
echo data | CLI exec -i parity cat
CLI top parity
CLI logs parity
CLI port parity
CLI network ls
CLI network inspect none
CLI volume create v1
CLI volume ls
CLI volume inspect v1
CLI volume create v2; CLI volume rm v2
CLI pause parity; CLI unpause parity
CLI rename parity parity2; CLI rename parity2 parity
CLI tag busybox other:1; CLI rmi other:1
CLI kill nothing
CLI stop nothing
CLI rm -f nothing
CLI wait nothing
CLI start nothing
CLI frobnicate
CLI ps extra
EOT
$docker rm -f parity parity2 v1 >/dev/null 2>&1; $docker volume rm v1 >/dev/null 2>&1
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
