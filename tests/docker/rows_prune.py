"""Pruning: what goes, what the filters keep, and how much is said to have been freed."""

from harness import Row

# A megabyte, the same under a second name, a link to it, a folder and three bytes.
FILL = "dd if=/dev/zero of=$0/a bs=1M count=1 2>/dev/null; ln $0/a $0/b; ln -s a $0/c; mkdir $0/d; echo 12 >$0/d/e"
IMAGE = f"""
image() {{ docker run --name $N-c $B sh -c '{FILL}; cat /proc/sys/kernel/random/uuid >$0/f' /home; docker commit -c "LABEL p=$N $2" $N-c $1 >/dev/null; docker rm $N-c >/dev/null; }}
images() {{ docker images --filter label=p=$N --format "{{{{.Repository}}}}:{{{{.Tag}}}}" | sort; }}
"""
THINGS = f"""
docker run --name $N-one --label p=$N $B sh -c '{FILL}' /home
docker network create --label p=$N $N-net >/dev/null
docker run --rm -v $(docker volume create --label p=$N):/v $B sh -c '{FILL}' /v
{IMAGE} image $N-used:1; image $N-unused:1; image $N-named:1; image $N-named:1; docker create --name $N-user --label keep $N-used:1 true >/dev/null
"""
LEFT = 'docker ps -a --filter name=$N --format "{{.Names}}" | sort; docker network ls -q --filter label=p=$N | wc -l; docker volume ls -q --filter label=p=$N | wc -l; images'
CLEAN = "docker rm -f $(docker ps -aq --filter name=$N) >/dev/null 2>&1; docker network rm $N-net >/dev/null 2>&1; docker volume rm $(docker volume ls -q --filter label=p=$N) >/dev/null 2>&1; docker rmi -f $(docker images -q --filter label=p=$N) >/dev/null 2>&1; true"

ROWS = [
    Row("container sizes", f"docker run --name $N $B sh -c '{FILL}' /home; docker ps -as --filter name=$N --format '{{{{.Size}}}}'; docker inspect -s -f '{{{{.SizeRw}}}}' $N"),
    Row("container prune by label", f"for i in 1 2 3; do docker run --name $N-$i --label p=$N --label i=$i $B sh -c '{FILL}' /home; done; docker container prune -f --filter label=p=$N --filter label=i=1; docker container prune -f --filter label=p=$N --filter label!=i; docker container prune -f --filter label=p=$N --filter label!=i=2 --filter label!=p=$N; docker ps -a --filter name=$N --format '{{{{.Names}}}}'"),
    Row("container prune by time", "docker create --name $N --label p=$N $B true >/dev/null; for t in 2000-01-01 2000-01-01T10:00 1h 946684800; do docker container prune -f --filter label=p=$N --filter until=$t; done; docker container prune -f --filter label=p=$N --filter until=2100-01-01T00:00:00"),
    Row("container prune keeps what runs", "docker run -d --name $N-1 --label p=$N $B sleep 60 >/dev/null; docker run -d --name $N-2 --label p=$N $B sleep 60 >/dev/null; docker pause $N-2 >/dev/null; docker run --name $N-3 --label p=$N $B false; docker create --name $N-4 --label p=$N $B true >/dev/null; docker container prune -f --filter label=p=$N; docker ps -a --filter name=$N --format '{{.Names}}' | sort; docker unpause $N-2 >/dev/null"),
    Row("container prune keeps volumes", f"v=$(docker volume create); docker run --name $N --label p=$N -v $v:/v $B sh -c '{FILL}' /v; docker container prune -f --filter label=p=$N; docker volume ls -q | grep -c $v; docker volume rm $v >/dev/null"),
    Row("image prune dangling", IMAGE + 'image $N:1; image $N:1; docker image prune -f --filter label=p=$N; docker image prune -f --filter label=p=$N; images; docker rmi $N:1 >/dev/null'),
    Row("image prune all by label", IMAGE + 'image $N:1 k=1; image $N:2 k=2; docker tag $N:2 $N:also; docker image prune -af --filter label=p=$N --filter label=k=1; docker image prune -af --filter label=p=$N --filter label!=k; images; docker image prune -af --filter label=p=$N --filter label!=k=1 | sed -E "s/[0-9a-f]{64}/ID/" | sort; images'),
    Row("image prune by time", IMAGE + 'image $N:1; docker image prune -af --filter label=p=$N --filter until=24h; docker image prune -af --filter label=p=$N --filter until=2020-01-01; images; docker image prune -af --filter label=p=$N --filter until=2100-01-01'),
    Row("image prune keeps what is used", IMAGE + 'image $N:1; docker create --name $N $N:1 true >/dev/null; docker image prune -af --filter label=p=$N; images; docker rm $N >/dev/null; docker image prune -af --filter label=p=$N'),
    Row("volume prune size", f"v=$(docker volume create --label p=$N --label k=1); docker run --rm -v $v:/v $B sh -c '{FILL}' /v; docker volume create --label p=$N >/dev/null; docker volume prune -f --filter label=p=$N --filter label!=k; docker volume prune -f --filter label=p=$N; docker volume prune -f --filter label=p=$N"),
    Row("volume sizes", f"docker run --rm -v $N:/v $B sh -c '{FILL}' /v; docker system df -v | grep $N; docker run --rm -v $N:/v $B dd if=/dev/zero of=/v/hole bs=1 count=1 seek=10M 2>/dev/null; docker system df -v --format '{{{{range .Volumes}}}}{{{{.Name}}}} {{{{.Links}}}} {{{{.Size}}}}{{{{println}}}}{{{{end}}}}' | grep $N; docker volume rm $N >/dev/null"),
    Row("network prune filters", "docker network create --label p=$N --label k=1 $N-1 >/dev/null; docker network create --label p=$N $N-2 >/dev/null; docker network prune -f --filter label=p=$N --filter until=1h; docker network prune -f --filter label=p=$N --filter label!=k; docker run -d --name $N --network $N-1 $B sleep 60 >/dev/null; docker network prune -f --filter label=p=$N; docker network ls --filter label=p=$N --format '{{.Name}}'; docker rm -f $N >/dev/null; docker network prune -f --filter label=p=$N --filter until=2100-01-01"),
    Row("system prune", THINGS + 'docker system prune -f --filter label=p=$N; echo; ' + LEFT + "; " + CLEAN),
    Row("system prune all and volumes", THINGS + 'docker system prune -af --volumes --filter label=p=$N | sed -E "s/[0-9a-f]{64}/ID/" | sort; echo; ' + LEFT + "; " + CLEAN),
    Row("system prune until", "docker create --name $N --label p=$N $B true >/dev/null; docker system prune -f --filter label=p=$N --filter until=1h; docker system prune -f --volumes --filter until=1h --filter label=p=$N; echo $?; sleep 1.1; docker system prune -f --filter label=p=$N --filter until=1ms", error="not supported with"),
    Row("prune is asked about", "docker create --name $N --label p=$N $B true >/dev/null; for kind in container image network; do echo n | docker $kind prune --filter label=p=$N 2>/dev/null; echo; done; echo n | docker image prune -a --filter label=p=$N 2>/dev/null; echo; echo y | docker container prune --filter label=p=$N", is_newer=True),
    Row("prune is refused", "docker create --name $N --label p=$N $B true >/dev/null; for kind in container image volume network system; do echo n | docker $kind prune --filter label=p=$N >/dev/null 2>&1; echo $?; done; docker ps -aq --filter name=$N | wc -l"),
    Row("system prune is asked about", "echo n | docker system prune -a --volumes --filter label=p=$N --filter label!=q 2>/dev/null; echo n | docker system prune 2>/dev/null", is_newer=True),
    Row("prune bad filters", "docker container prune -f --filter nosuch=1; echo $?; docker image prune -f --filter since=1h; echo $?; docker network prune -f --filter until=soon; echo $?; docker container prune -f --filter until=1h --filter until=2h; echo $?; docker volume prune -f --filter until=1h; echo $?; docker container prune -f --filter nosuch; echo $?", error="invalid filter|filter"),
]
