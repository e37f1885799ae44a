"""Dockerfiles that cover the instructions and flags. Each is built by Debian's Docker and by Naru.

`reference` says by which of Docker's builders: `classic`, `buildkit` (what the classic one does not know) or None, where
neither in Debian knows it; then `holds` is a shell condition that must hold inside the image. What needs a server or a
client's files besides its context (`ADD --checksum` and `--keep-git-dir`, secrets, agents, named contexts) is in
test_sources.py and test_session.py.
"""


class Case:
    def __init__(self, name, dockerfile, files=None, flags="", reference="classic", holds="", fails=""):
        self.name = name
        self.dockerfile = dockerfile
        self.files = files or {}
        self.flags = flags
        self.reference = reference
        self.holds = holds
        # What the error must say, of both.
        self.fails = fails


class Link(str):
    """A symbolic link to this."""


class Script(str):
    """A file that may be executed."""


TREE = {"a.txt": "a\n", "b.txt": "b\n", "dir/c.txt": "c\n", "dir/deep/d.txt": "d\n", "dir/link": Link("c.txt"), "run.sh": Script("#!/bin/sh\necho ran\n")}
B = "FROM busybox:test\n"

CASES = [
    Case("nothing", B),
    Case("scratch", "FROM scratch\nCOPY a.txt /\n", TREE),
    Case("lower case words", "from busybox:test\nrun echo x >/x\nenv A=1\n"),
    Case("comments and blank lines", "# first\n\n" + B + "# a comment\n\nRUN echo 1 >/x && \\\n# inside\n    echo 2 >>/x\n"),
    Case("continuations", B + "RUN echo a \\\n  b \\\n\n  c >/x\nENV A=1 \\\n  B=2\n"),
    Case("escape directive", "# escape=`\n" + B + "RUN echo a `\n  b >/x\nENV A=c:\\d\n"),
    Case("directives", "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\n" + B + "RUN echo a `\n  b >/x\n", reference=None, holds="grep -qx 'a b' /x"),
    Case("windows line ends", "FROM busybox:test\r\nRUN echo x >/x\r\nENV A=1\r\n"),
    Case("byte order mark", "\ufeffFROM busybox:test\nENV A=1\n"),
    Case("run shell form", B + 'RUN echo "$HOME $0" >/x; umask >/u; id >/i; pwd >/p\n'),
    Case("run exec form", B + 'RUN ["sh", "-c", "echo $0 >/x", "arg"]\nRUN ["/bin/touch", "/y"]\n'),
    Case("run environment", B + "ENV Z=1 A=2\nARG Q=3\nRUN env | grep -v -e HOSTNAME -e PWD -e SHLVL | sort >/env\n"),
    Case("run deletes", B + "RUN mkdir -p /d/e && echo 1 >/d/f && echo 2 >/d/e/g\nRUN rm -r /d/e && rm /bin/yes\n"),
    Case("run replaces a directory", B + "RUN mkdir -p /d && echo 1 >/d/f\nRUN rm -r /d && mkdir /d && echo 2 >/d/g\n"),
    Case("run special files", B + "RUN mkfifo /fifo && ln -s /nowhere /dangling && ln /fifo /hard && mknod /null c 1 3 && chmod 4755 /bin/busybox && mkdir -m 1777 /sticky\n"),
    Case("run owners", B + "RUN echo 'u:x:7:8::/:/bin/sh' >>/etc/passwd; touch /f; chown 7:8 /f\nUSER u\nRUN id -u >/tmp/id\n"),
    Case("run fails", B + "RUN echo words && exit 7\n", fails="returned a non-zero code: 7|exit code: 7"),
    Case("run unknown command", B + "RUN nosuchcommand\n", fails="returned a non-zero code: 127|exit code: 127"),
    Case("run confined", B + "RUN --network=none ls /sys/class/net >/x\nRUN --network=default --security=sandbox ls /sys/class/net | wc -l >/y\n", reference=None, holds='[ "$(cat /x)" = lo ] && [ "$(cat /y)" -gt 1 ]'),
    Case("run unconfined", B + "RUN --security=insecure true\n", fails="(?i)security"),
    Case("run with a device", B + "RUN --device=/dev/null true\n", fails="(?i)device"),
    Case("run big output", B + "RUN seq 1 20000 | tail -3 >/x; seq 1 20000\n"),
    Case("env forms", B + "ENV ONE=1 TWO=\"two words\" THREE='single $ONE' FOUR=back\\ slash\nENV OLD form with  spaces\nENV ONE=changed FIVE=$ONE\nENV SIX=${NONE:-six} SEVEN=${ONE:+seven}\n"),
    Case("env patterns", B + "ENV V=a.b.c\nENV X=${V#*.} Y=${V%.*} Z=${V/./-} W=${V//./-}\nRUN echo $X $Y $Z $W >/x\n", reference=None, holds="grep -qx 'b.c a.b a-b.c a-b-c' /x"),
    Case("env keeps order", B + "ENV B=1\nENV A=2\nENV B=3\n"),
    Case("label forms", B + "LABEL a=1 \"b c\"=\"d e\" f=g\\\n h=i\nLABEL old value\nENV V=x\nLABEL v=$V\n"),
    Case("expose forms", B + "ENV P=9\nEXPOSE 80 443/tcp 53/UDP 7000-7002 $P/udp\n"),
    Case("volume forms", B + 'VOLUME /a /b\nVOLUME ["/c", "/d e"]\n'),
    Case("user forms", B + "ENV U=3\nUSER $U:4\n"),
    Case("workdir forms", B + "WORKDIR /a\nWORKDIR b\nENV D=c\nWORKDIR $D/../d\nRUN pwd >/pwd\n"),
    Case("workdir existing", B + "WORKDIR /tmp\nRUN touch here\n"),
    Case("workdir as user", B + "USER 5\nWORKDIR /made\n"),
    Case("cmd forms", B + "CMD echo hi $X\nCMD [\"a\", \"b c\"]\n"),
    Case("cmd shell form", B + "CMD echo hi $X\n"),
    Case("cmd empty", B + "CMD []\n"),
    Case("entrypoint resets cmd", "FROM busybox:test AS base\nCMD [\"x\"]\nFROM base\nENTRYPOINT [\"/bin/echo\"]\n"),
    Case("entrypoint after cmd", B + "CMD [\"x\"]\nENTRYPOINT /bin/echo y\n"),
    Case("json that is none", B + "CMD ['a', 'b']\n"),
    Case("shell", B + 'SHELL ["/bin/sh", "-ec"]\nRUN echo $- >/x\nCMD done\nENTRYPOINT start\n'),
    Case("stopsignal", B + "STOPSIGNAL SIGUSR1\n"),
    Case("stopsignal number", B + "ENV S=9\nSTOPSIGNAL $S\n"),
    Case("stopsignal wrong", B + "STOPSIGNAL SIGNONE\n", fails="(?i)invalid signal"),
    Case("healthcheck", B + "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=2s --retries=4 CMD wget -q localhost || exit 1\n"),
    Case("healthcheck exec", B + 'HEALTHCHECK CMD ["a", "b"]\n'),
    Case("healthcheck start interval", B + "HEALTHCHECK --start-period=9s --start-interval=2s CMD true\n", reference=None, holds="true"),
    Case("healthcheck none", B + "HEALTHCHECK NONE\n"),
    Case("maintainer", B + "MAINTAINER somebody <a@example.com>\n"),
    Case("onbuild", "FROM busybox:test AS base\nONBUILD ENV A=1\nONBUILD RUN echo $A >/x\nONBUILD COPY a.txt /\nFROM base\nRUN cat /x a.txt\n", TREE, reference="classic"),
    Case("onbuild is kept", B + "ONBUILD RUN touch /x\nONBUILD ADD . /src\n"),
    Case("arg default and given", B + "ARG A=1\nARG B=2\nARG C\nRUN echo $A-$B-$C >/x\nLABEL l=$A$B\n", flags="--build-arg B=given --build-arg C=c"),
    Case("arg of the builder", B + "RUN hostname >/x\n", flags="--build-arg BUILDKIT_SANDBOX_HOSTNAME=given", reference=None, holds='[ "$(cat /x)" = given ]'),
    Case("arg several", B + "ARG A=1 B C=3\nRUN echo $A$B$C >/x\n", flags="--build-arg B=2", reference=None, holds="grep -qx 123 /x"),
    Case("arg before from", "ARG TAG=test\nARG UNUSED=x\nFROM busybox:${TAG}\nARG TAG\nRUN echo $TAG-$UNUSED >/x\n"),
    Case("arg and env", B + "ARG A=arg\nENV A=env\nRUN echo $A >/x\nARG C=arg\nENV D=${C}\n", flags="--build-arg A=given"),
    Case("arg scope of a stage", "FROM busybox:test AS one\nARG A=1\nRUN echo $A >/x\nFROM one\nRUN echo \"<$A>\" >/y\n"),
    Case("proxy arguments", B + "RUN echo $HTTP_PROXY >/x\n", flags="--build-arg HTTP_PROXY=http://proxy.example:1"),
    Case("copy files", B + "COPY a.txt /\nCOPY a.txt /renamed\nCOPY a.txt b.txt /into/\nCOPY run.sh /deep/er/\n", TREE),
    Case("copy directories", B + "COPY dir /d1\nCOPY dir /d2/\nCOPY dir/ /d3\nCOPY . /all\n", TREE),
    Case("copy into workdir", B + "WORKDIR /w\nCOPY a.txt .\nCOPY b.txt sub/\nCOPY dir ./\n", TREE),
    Case("copy patterns", B + "COPY *.txt /t/\nCOPY d*/c.tx? /u/\nCOPY [ab].txt /v/\n", TREE),
    Case("copy json", B + 'COPY ["a b.txt", "c d/", "/x y/"]\n', {"a b.txt": "1", "c d/e": "2"}),
    Case("copy variables", B + "ENV F=a.txt T=/target\nCOPY $F ${T}/\n", TREE),
    Case("copy over", B + "RUN mkdir /d && echo old >/d/c.txt && echo stays >/d/x && chmod 700 /d\nCOPY dir /d\n", TREE),
    Case("copy chown", B + "RUN echo 'u:x:7:8::/:/bin/sh' >>/etc/passwd; echo 'g:x:9:' >>/etc/group\nCOPY --chown=1:2 dir /d\nCOPY --chown=u:g b.txt /made/b\nCOPY --chown=5 a.txt /five\n", TREE),
    Case("copy chown to a user's own group", B + "RUN echo 'u:x:7:8::/:/bin/sh' >>/etc/passwd\nCOPY --chown=u a.txt /a\n", TREE, reference="buildkit"),
    Case("copy chmod", B + "COPY --chmod=0751 dir /d\nCOPY --chmod=600 a.txt /\n", TREE, reference="buildkit"),
    Case("copy link flag", B + "COPY --link a.txt /x/\n", TREE, reference=None, holds="grep -q a /x/a.txt"),
    Case("copy follows a named link", B + "COPY dir/link /x\n", TREE),
    Case("copy through a link of the image", B + "RUN mkdir /real && ln -s /real /way\nCOPY a.txt /way/\n", TREE),
    Case("copy from a stage", "FROM busybox:test AS one\nRUN mkdir -p /o/p && echo 1 >/o/p/f && chown 3:4 /o/p/f && ln -s f /o/p/l && ln /o/p/f /o/p/h\nFROM busybox:test\nCOPY --from=one /o /x\nCOPY --from=0 /o/p/f /y\n"),
    Case("copy from an image", B + "COPY --from=busybox:test /bin/busybox /own/\n"),
    Case("copy parents and excludes", B + "COPY --parents dir/./deep/d.txt /p/\nCOPY --exclude=*.txt --exclude=deep dir /e/\n", TREE, reference=None, holds='[ "$(cd / && find p e | sort | tr "\\n" " ")" = "e e/link p p/deep p/deep/d.txt " ]'),
    Case("copy nothing fits", B + "COPY nosuch* /\n", TREE, fails="no source files"),
    Case("copy missing", B + "COPY nosuch /\n", TREE, fails="(?i)not found"),
    Case("copy out of the context", B + "COPY ../../etc/passwd /x\n", TREE, fails="(?i)not found|forbidden path"),
    Case("copy several to a file", B + "COPY a.txt b.txt /x\n", TREE, fails="(?i)must be a directory"),
    Case("add archive", B + "ADD x.tar.gz /d/\nADD x.tar.gz /e\n", {"x.tar.gz": {"t/f": "1", "g": "2"}}),
    Case("add plain", B + "ADD a.txt /d/\nADD dir /e/\n", TREE),
    Case("add flags", B + "ADD --chmod=0604 --link a.txt /x/\nADD --exclude=b.* *.txt /y/\nADD --unpack=false x.tar.gz /k/\n", {**TREE, "x.tar.gz": {"f": "1"}}, reference=None, holds='[ "$(stat -c %a /x/a.txt)" = 604 ] && [ "$(ls /y) $(ls /k)" = "a.txt x.tar.gz" ]'),
    Case("add chown", B + "ADD --chown=3:4 a.txt /x\n", TREE),
    Case("copy keeps archives", B + "COPY x.tar.gz /d/\n", {"x.tar.gz": {"f": "1"}}),
    Case("dockerignore", B + "COPY . /c\n", {**TREE, ".dockerignore": "*.txt\n!b.txt\ndir/deep\n# comment\n**/link\n"}),
    Case("dockerfile elsewhere", "FROM scratch\n", {"other/Build": B + "COPY a.txt /x\n", "a.txt": "1"}, flags="-f other/Build"),
    Case("target", "FROM busybox:test AS one\nRUN touch /one\nFROM busybox:test AS two\nRUN touch /two\nFROM nosuchimage:x\n", flags="--target TWO"),
    Case("platforms", "FROM --platform=$BUILDPLATFORM busybox:test AS own\nRUN touch /own\nFROM --platform=linux/amd64 busybox:test\nCOPY --from=own /own /\n" + "".join(f"ARG {side}{part}\n" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")) + "RUN env | grep -e ^BUILD -e ^TARGET | sort >/arguments\n", reference="buildkit"),
    Case("stages", "FROM busybox:test AS a\nRUN echo a >/a\nFROM a AS b\nRUN echo b >/b\nFROM busybox:test\nCOPY --from=b /a /b /\nFROM a\n"),
    Case("labels of the command", B + "LABEL a=1\n", flags="--label b=2 --label a=3"),
    Case("no network", B + "RUN ls /sys/class/net >/x\n", flags="--network none"),
    Case("add host", B + "RUN grep extra /etc/hosts >/x\n", flags="--add-host extra:1.2.3.4"),
    Case("limits", B + "RUN ulimit -n >/x; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 >/y\n", flags="--ulimit nofile=123:456 --shm-size 32m"),
    Case("heredoc run", B + "RUN <<EOF\necho one >/x\necho two >>/x\nEOF\n", reference=None, holds='[ "$(cat /x)" = "one\ntwo" ]'),
    Case("heredoc of a program", B + "RUN cat >/x <<EOF && echo more >>/x\n  $HOME\nEOF\nRUN cat <<-'END' >/y\n\t$HOME\nEND\n", reference=None, holds='grep -q "^  /root$" /x && grep -q more /x && grep -qx \'$HOME\' /y'),
    Case("heredoc add", B + "ADD --chmod=640 <<EOF /d/file\nwords\nEOF\n", reference=None, holds='grep -qx words /d/file && [ "$(stat -c %a /d/file)" = 640 ]'),
    Case("heredocs of one run", B + "RUN cat <<one >/x && cat <<two >/y\n1\none\n2\ntwo\n", reference=None, holds='[ "$(cat /x /y | tr -d "\\n")" = 12 ]'),
    Case("heredoc with an interpreter", B + "RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"from awk\" >\"/x\" }\nEOF\n", reference=None, holds="grep -q 'from awk' /x"),
    Case("heredoc copy", B + "ENV V=value\nCOPY <<one <<\"two\" /d/\na=$V \"quoted\" \\$V\none\nb=$V\ntwo\n", reference=None, holds='grep -qxF \'a=value "quoted" $V\' /d/one && grep -qxF \'b=$V\' /d/two'),
    Case("mount cache", B + "RUN --mount=type=cache,target=/c echo 1 >/c/f\nRUN --mount=type=cache,target=/c cat /c/f >/x\n", reference="buildkit"),
    Case("mount with variables", B + "ARG ID=7\nENV RIGHTS=0700 KIND=cache\nRUN --mount=type=$KIND,target=/owned,uid=${ID},mode=$RIGHTS,sharing=${NONE:-locked} stat -c '%u %a' /owned >/x\n", reference=None, holds="grep -qx '7 700' /x"),
    Case("mount tmpfs", B + "RUN --mount=type=tmpfs,target=/t grep -c ' /t tmpfs ' /proc/mounts >/x; ls -d /t\n", reference="buildkit"),
    Case("mount bind", B + "RUN --mount=type=bind,source=dir,target=/m cp -r /m/deep /x && ! touch /m/y\n", TREE, reference="buildkit"),
    Case("mounts of what is not given", B + "RUN --mount=type=secret,id=s [ ! -e /run/secrets/s ]\nRUN --mount=type=secret,id=s,env=S [ -z \"$S\" ] && touch /x\nRUN --mount=type=ssh [ -z \"$SSH_AUTH_SOCK\" ]\n", reference=None, holds="test -e /x"),
    Case("volume written later", B + "VOLUME /v\nRUN mkdir -p /v && echo 1 >/v/x\n", reference="buildkit"),
    Case("unknown instruction", B + "COPPY a b\n", fails="(?i)unknown instruction: COPPY"),
    Case("unknown flag", B + "COPY --form=x a b\n", fails="(?i)unknown flag: (--)?form"),
    Case("no from", "RUN x\n", fails="(?i)no build stage"),
    Case("empty", "# nothing\n", fails="(?i)cannot be empty|no instructions|no build stage|file with no"),
    Case("base argument missing", "FROM $NONE\n", fails="(?i)should not be blank|base name"),
    Case("nosuch target", B, flags="--target nosuch", fails="(?i)target.*nosuch"),
    Case("wrong expose", B + "EXPOSE abc\n", fails="(?i)invalid.*port"),
    Case("env without a value", B + "ENV A\n", fails="(?i)ENV must have two arguments"),
    Case("copy one argument", B + "COPY a\n", fails="(?i)at least two arguments"),
    Case("nosuch stage number", B + "COPY --from=7 /x /\n", fails="(?i)invalid|not found|index|pull access|cannot connect|no such host|lookup"),
]
