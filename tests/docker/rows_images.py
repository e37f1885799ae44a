"""Images: load, tag, remove, history, and their listings."""

from harness import Row

ROWS = [
    Row("images list", 'docker images --format "{{.Repository}}:{{.Tag}} {{.Size}}" busybox | sed "s/ .*B$/ size/"; docker images -q busybox:test | wc -l'),
    Row("image inspect", 'docker image inspect -f "{{json .RepoTags}} {{.Os}} {{.Architecture}} {{json .Config.Cmd}} {{json .Config.Env}} {{.RootFS.Type}} {{len .RootFS.Layers}} {{json .RootFS.Layers}}" $D'),
    Row("image config", 'docker image inspect -f "{{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{json .Config.Labels}} {{.Config.WorkingDir}} {{.Created}}" $D'),
    Row("history", 'docker history --format "{{.CreatedBy}}" --no-trunc $D'),
    Row("tag and untag", 'docker tag $B $N:one; docker images --format "{{.Repository}}:{{.Tag}}" $N; docker run --rm $N:one echo hi; docker rmi $N:one; docker image inspect $B -f "{{json .RepoTags}}"'),
    Row("tag with registry", 'docker tag $B registry.example:5000/a/b:c; docker images --format "{{.Repository}} {{.Tag}}" registry.example:5000/a/b; docker rmi registry.example:5000/a/b:c'),
    Row("tag unknown", 'docker tag nosuch:image $N:one; echo $?', error="no such image"),
    Row("tag bad reference", 'docker tag $B "Bad Name"; echo $?', error="invalid reference|not a valid"),
    Row("run by id", 'docker run --rm $(docker images -q --no-trunc $B) echo full; docker run --rm $(docker images -q $B) echo short'),
    Row("rmi in use", 'docker tag $B $N:one; docker create --name $N $N:one true >/dev/null; docker rmi $N:one; echo $?; docker rm $N >/dev/null; docker rmi $N:one >/dev/null 2>&1; true', differs="Docker untags or refuses depending on other tags; compared in its own row"),
    Row("rmi unknown", 'docker rmi nosuch:image; echo $?', error="no such image"),
    Row("image not found", 'docker image inspect nosuch:image; echo $?', error="no such image"),
    Row("whiteouts", 'docker run --rm $D sh -c "ls /usr/share/doc 2>&1; ls /var/lib/apt/lists 2>&1; cat /media; cat /srv/link.py | head -1; stat -c %h /srv/server.py"'),
    Row("file modes survive", 'docker run --rm $D sh -c "stat -c \'%a %u %g %n\' /tmp /usr/bin/passwd /usr/bin/chage /var/mail /srv/data/seed; readlink /bin; find / -xdev -type f | grep -v -e ^/etc/hosts -e ^/etc/resolv -e ^/etc/hostname | wc -l"'),
    Row("changes stay in the container", 'docker run --name $N $D sh -c "rm -rf /usr/share/perl*; echo x >/etc/passwd"; docker run --rm $D sh -c "test -d /usr/share/perl && wc -l </etc/passwd"'),
    Row("python runs", 'docker run --rm $D python3 -c "import json, ssl, sqlite3; print(json.dumps({1: 2}))" 2>/dev/null || docker run --rm $D python3 -c "import json; print(json.dumps({1: 2}))"'),
    Row("save nothing half loaded", 'printf "not a tar" | docker load; echo $?; docker images -q | wc -l', error="."),
    Row("load truncated", 'head -c 1000000 $IMAGES/busybox.tar >$W/cut.tar; docker load -i $W/cut.tar >/dev/null; test $? != 0 && echo refused', error="."),
    Row("platform of an image", 'docker inspect --type image -f "{{.Architecture}}" $B; docker image inspect --platform linux/amd64 -f "{{.Os}}" $B; docker history -q --platform linux/amd64 $B | wc -l; docker save --platform linux/amd64 -o $W/b.tar $B && docker load -q --platform linux/amd64 -i $W/b.tar; for what in "image inspect" "history" "save -o $W/c.tar"; do docker $what --platform linux/s390x $B 2>&1 >/dev/null | grep -c "does not match the specified platform"; done; docker load -q --platform linux/s390x -i $W/b.tar 2>&1 | grep -c "no image for platform linux/s390x"', differs="Docker 20.10 has no --platform there", expect="^amd64\nlinux\n1\nLoaded image: busybox:test\n1\n1\n1\n1\n$", clients=["cli28", "naru"]),
    Row("load again", 'docker load -qi $IMAGES/busybox.tar; docker load -q <$IMAGES/busybox.tar'),
]
