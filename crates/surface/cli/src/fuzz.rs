//! What people type, and what a daemon that is none answers.

use crate::args::{self, Order};
use crate::json::Value;
use crate::options::{FLAGS, plan_create};
use crate::stream::{FrameReader, parse_detach_keys};
use crate::template::Template;
use naru_fuzz::{feed, feed_text};

#[test]
fn templates() {
    let data =
        Value::parse(br#"{"Name":"x","List":[1,2,{"a":null}],"Map":{"k":"v"},"Number":1.5,"Yes":true}"#)
            .unwrap();
    let examples = [
        "{{.Name}}\t{{json .Map}}",
        "{{range $i, $e := .List}}{{if eq $i 1}}{{$e}}{{else if .}}b{{else}}c{{end}}{{end}}",
        "{{with .Map}}{{.k | upper | printf \"%-10s|%q\"}}{{end}}",
        "{{- /* comment */ -}} {{index .Map \"k\"}} {{len .List}} {{join (split \"a,b\" \",\") \"-\"}}",
        "table {{.Name}}\\t{{truncate .Name 3}}{{pad .Name 1 2}}{{slice .Name 0 1}}{{println 1 0x10 'a' `raw` \"\\u00e9\"}}",
    ];
    feed_text(&examples, |text| {
        if let Ok(template) = Template::parse(text) {
            let _ = template.render(&data);
            let _ = template.render(&Value::Null);
        }
    });
}

/// One word a line.
#[test]
fn options_of_run() {
    let examples = [
        "-it\n--rm\n-p\n127.0.0.1:8000-8010:80-90/udp\n-v\n/a:/b:ro\nimage\ncommand",
        "--mount\ntype=bind,src=/a,dst=/b,readonly,bind-propagation=rshared\nimage",
        "--memory=64m\n--cpus=1.5\n--ulimit\nnofile=1:2\n--device\n/dev/x:/dev/y:rwm\nimage",
        "-e\nA=b\n-l\na=b\n--health-cmd\nx\n--health-interval=1h2m3.5s\n--restart\non-failure:3\n--tmpfs\n/t:size=1m\nimage\n--\n-x",
        "--network\nname=x,alias=y,ip=1.2.3.4\n--dns\n1.1.1.1\n--add-host\na:1.2.3.4\n--blkio-weight-device\n/dev/x:10\n--device-read-bps\n/dev/x:1mb\nimage",
    ];
    feed_text(&examples, |text| {
        let words: Vec<String> = text
            .split('\n')
            .filter(|word| is_no_file(word))
            .map(str::to_owned)
            .collect();
        if let Ok(arguments) = args::parse(&[FLAGS], Order::FlagsFirst, &words)
            && !arguments.positional.is_empty()
        {
            let _ = plan_create(&arguments, false);
        }
        let _ = parse_detach_keys(text);
    });
}

/// Files named by options are read; a mutated name must not be one that never ends.
fn is_no_file(word: &str) -> bool {
    !word.contains("/dev/") || word.starts_with("/dev/x")
}

#[test]
fn frames_of_an_exec() {
    feed(
        &[
            b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\0",
            b"\x03\0\0\0\0\0\0\x02no",
        ],
        |bytes| {
            for size in [1, 7, bytes.len().max(1)] {
                let mut frames = FrameReader::default();
                let mut written = 0;
                for part in bytes.chunks(size) {
                    let accepted = frames.accept(part, &mut |_, bytes| {
                        written += bytes.len();
                        Ok(())
                    });
                    if accepted.is_err() {
                        break;
                    }
                }
                assert!(written <= bytes.len());
            }
        },
    );
}

#[test]
fn answers_in_json() {
    feed(
        &[br#"[{"Id":"a","Names":["/x"],"Created":1.5e3,"Labels":{"a":"b"},"S":"\ud83d\ude00"}]"#],
        |bytes| {
            if let Ok(value) = Value::parse(bytes) {
                let text = value.to_json();
                let _ = crate::json::indent_json(&text, "    ");
                Value::parse(text.as_bytes()).unwrap();
            }
        },
    );
}
