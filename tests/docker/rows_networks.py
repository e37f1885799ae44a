"""Networks that users make, as the command line shows them."""

from harness import Row

# Names hold a network's too; whatever a row does, its network is gone after it.
MADE = 'docker network create $N >/dev/null; trap "docker rm -f $N $N-2 >/dev/null 2>&1; docker network rm $N >/dev/null 2>&1" EXIT; '
ON_IT = 'docker run -d --name $N --network $N $B sleep 60 >/dev/null; '

LINKED = 'docker run -d --name $N --hostname dbhost --expose 5432 --expose 53/udp -e SECRET=x $B sleep 60 >/dev/null; '
UNADDRESSED = "sed -E 's/[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+/ADDRESS/'"

ROWS = [
    Row("network life", 'docker network create --label a=b $N | wc -c; docker network ls -f name=$N --format "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}"; docker network inspect -f "{{.Internal}} {{.Attachable}} {{.Labels.a}} {{.Driver}}" $N; docker network rm $N; docker network ls -q -f name=$N'),
    Row("network config", 'docker network create --subnet 10.90.0.0/16 --ip-range 10.90.5.0/24 --gateway 10.90.0.9 --aux-address r=10.90.5.1 --internal --attachable -o com.docker.network.driver.mtu=1400 $N >/dev/null; docker network inspect -f "{{json .IPAM}} {{.Internal}} {{.Attachable}} {{json .Options}}" $N; docker network rm $N'),
    Row("network exists", MADE + 'docker network create $N; echo $?', error="already exists"),
    Row("network overlaps", 'docker network create --subnet 10.91.0.0/16 $N >/dev/null; docker network create --subnet 10.91.4.0/24 $N-2; echo $?; docker network rm $N', error="overlap"),
    Row("network bad names", 'for name in host bridge ""; do docker network create "$name" >/dev/null 2>&1; echo $?; done'),
    Row("network bad subnets", 'for subnet in x 10.1.0.0 10.1.0.0/40; do docker network create --subnet $subnet $N >/dev/null 2>&1; echo $?; done; docker network create --gateway 10.1.0.1 $N >/dev/null 2>&1; echo $?; docker network create -d nonsense $N >/dev/null 2>&1; echo $?'),
    Row("network rm in use", MADE + ON_IT + 'docker network rm $N; echo $?', error="has active endpoints"),
    Row("network rm predefined", 'docker network rm bridge; echo $?', error="pre-defined network and cannot be removed"),
    Row("network rm missing", 'docker network rm nonsense; echo $?', error="not found|no such network"),
    Row("network inspect missing", 'docker network inspect nonsense; echo $?', error="not found|no such network"),
    Row("network filters", MADE + 'docker network ls -f type=builtin --format "{{.Name}}" | sort; docker network ls -f driver=null --format "{{.Name}}"; docker network ls -f type=nonsense; echo $?', error="(?i)invalid filter"),
    Row("network connect", MADE + 'docker run -d --name $N $B sleep 60 >/dev/null; docker network connect --alias x $N $N; docker inspect -f "{{range \\$name, \\$_ := .NetworkSettings.Networks}}{{\\$name}} {{end}}" $N; docker exec $N ls /sys/class/net; docker network disconnect $N $N; docker exec $N ls /sys/class/net'),
    Row("network connect twice", MADE + ON_IT + 'docker network connect $N $N; echo $?', error="already exists in network"),
    Row("network disconnect twice", MADE + 'docker run -d --name $N $B sleep 60 >/dev/null; docker network disconnect $N $N; echo $?', error="is not connected to"),
    Row("network connect of host mode", MADE + 'docker run -d --name $N --network host $B sleep 60 >/dev/null; docker network connect $N $N >/dev/null 2>&1; echo $?'),
    Row("run on a missing network", 'docker run --name $N --network nonsense $B true; echo $?', error="network nonsense not found"),
    Row("run with ip on a plain network", MADE + 'docker run --name $N --network $N --ip 10.1.2.3 $B true; echo $?', error="user configured subnets"),
    Row("run with ip outside", 'docker network create --subnet 10.92.0.0/24 $N >/dev/null; docker run --name $N --network $N --ip 10.1.2.3 $B true >/dev/null 2>&1; echo $?; docker rm $N >/dev/null; docker network rm $N'),
    Row("names on a network", MADE + ON_IT + 'docker run --rm --name $N-2 --network $N $B ping -c1 -W2 $N | grep -c " 0% packet loss"; docker run --rm --network $N $B cat /etc/resolv.conf | grep nameserver'),
    Row("network none of its own", 'docker run --rm --network none $B ls /sys/class/net'),
    Row("links", LINKED + 'docker run -d --name $N-web --link $N:my-db --link $N -e OWN=1 $B sleep 60 >/dev/null; docker exec $N-web sh -c "grep -w -e my-db -e $N /etc/hosts | sort; env | grep -E \'^(MY_DB|[T-Z]_LINKS|OWN)\' | sort; ping -c1 -W1 my-db | grep -c 1.packets.received" | ' + UNADDRESSED + "; docker inspect -f '{{range .HostConfig.Links}}{{println .}}{{end}}' $N-web | sort"),
    Row("links follow the container", LINKED + 'docker run -d --name $N-web --link $N:db $B sleep 60 >/dev/null; docker stop -t0 $N >/dev/null; docker run -d --name $N-taker $B sleep 60 >/dev/null; docker start $N >/dev/null; ' + "test \"$(docker exec $N-web awk '/\tdb / {print $1}' /etc/hosts)\" = $(docker inspect -f '{{.NetworkSettings.IPAddress}}' $N) && echo followed; docker rename $N $N-new; docker restart -t0 $N-web >/dev/null; docker inspect -f '{{json .HostConfig.Links}}' $N-web; docker exec $N-web sh -c 'grep -c \"db \" /etc/hosts'; docker rm -f $N-new >/dev/null; docker restart -t0 $N-web; docker inspect -f '{{.State.Running}}' $N-web", error="(?i)cannot link to a"),
    Row("links that cannot be", LINKED + 'docker create --link nosuch:x $B true; echo $?; docker create --link a:b:c $B true; echo $?; docker create --link $N --network host $B true; echo $?; docker run -d --name $N-host --network host $B sleep 60 >/dev/null; docker create --link $N-host:h $B true; echo $?; docker create --name $N-late --link $N:db $B true >/dev/null; docker stop -t0 $N >/dev/null; docker start $N-late; echo $?', error="(?s)could not get container for nosuch.*bad format for links.*Cannot link to a non running container: /$N AS /$N-late/db".replace("$N", "t-links-that-cannot-be"), is_newer=True),
    Row("links in lists", LINKED + "docker run -d --name $N-web --link $N:my-db --link $N $B sleep 60 >/dev/null; docker run -d --name a-$N --link $N-web:w $B sleep 60 >/dev/null; for words in --no-trunc '' '-a --no-trunc -f name=my-db' '-f name=^/a-$N'; do docker ps $words --format '{{.Names}}' | sort; echo; done; docker rename $N-web $N-new; docker stop -t0 a-$N >/dev/null; docker ps --no-trunc --format '{{.Names}}' | sort; docker rm -f $N-new a-$N >/dev/null; docker ps --no-trunc --format '{{.Names}}'"),
    Row("links removed", LINKED + "docker run -d --name $N-web --link $N:db $B sleep 60 >/dev/null; docker rm --link $N-web/db; docker inspect -f '{{json .HostConfig.Links}}' $N-web; docker inspect -f '{{.State.Running}}' $N; docker rm --link $N-web/db >/dev/null 2>&1; echo $?; docker rm --link $N; echo $?", error="cannot remove the default link name"),
]
