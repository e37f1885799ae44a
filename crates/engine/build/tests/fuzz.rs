//! Dockerfiles and ignore files from anywhere: read or refused, with the place of what is wrong.

use naru_build::configure::StageState;
use naru_build::ignore::Ignore;
use naru_build::listing::{self, ContextEntry, EntryKind, FileIdentity};
use naru_build::stages::{self, PlanOptions};
use naru_build::{Dockerfile, check, excerpt, outline, parse, words};
use naru_fuzz::{feed, feed_text};

const EXAMPLES: &[&str] = &[
    "FROM a AS b\nCOPY --from=c --chown=1:2 --parents --exclude=*.md x y/\nFROM b AS c\nRUN --mount=type=cache,target=/c,id=x,sharing=locked make\n",
    "# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nENV A=1 B=\"two $A\" C='three'\nRUN echo a `\n  b\n",
    "ARG V=1\nARG W=${V:-2}\nFROM ${W}:${V%.*}\nARG V\nLABEL a=${V//1/2} b=${NONE:?gone}\n",
    "FROM x\nRUN <<EOF\n#!/bin/sh\necho hi\nEOF\nCOPY <<-\"one\" <<two /d/\n\ta\none\nb\ntwo\n",
    "FROM x\nHEALTHCHECK --interval=1m30s --retries=2 CMD [\"a\", \"b\"]\nEXPOSE 80/tcp 90-95/udp\nVOLUME [\"/a\", \"/b\"]\nSHELL [\"/bin/sh\"]\nONBUILD ADD . /src\nSTOPSIGNAL 9\nCMD x\nENTRYPOINT [\"y\"]\nUSER u:g\nWORKDIR ../w\nMAINTAINER m\n",
    "# check=skip=FromAsCasing;error=true\nARG V\nFROM a:$V as B\nWORKDIR x\nENV a b\nEXPOSE 1:2/TCP\nRUN a \\\n\n b\nCMD a\nCMD b\nARG KEY\n",
    "FROM --platform=$BUILDPLATFORM x\nADD --checksum=sha256:00 --keep-git-dir=false --unpack http://h/f /t\n",
];

/// Goes through everything that a build asks of a file before it runs a step.
fn use_file(file: &Dockerfile) {
    let options = PlanOptions {
        platform_arguments: [("BUILDPLATFORM".to_owned(), "linux/amd64".to_owned())].into(),
        ..PlanOptions::default()
    };
    if let Ok(plan) = stages::plan(file, &options) {
        let mut seen = std::collections::BTreeSet::new();
        for stage in &plan.stages {
            assert!(stage.needs.is_subset(&seen), "a stage comes before what it needs");
            seen.insert(stage.index);
        }
        let _ = outline::outline(file, &plan, &options.build_arguments);
    }
    assert_eq!(outline::targets(file).len(), file.stages.len());
    let report = check::check(file, &check::Facts::default()).unwrap_or_default();
    let shown = check::shown(&report.findings, "Dockerfile", &file.text);
    assert!(shown.lines().count() < 8 + 12 * report.findings.len(), "{shown}");
    let mut state = StageState::default();
    for line in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if let Err(error) = state.apply(line, file.escape) {
            assert_eq!(error.place, line.place, "{error}");
        }
    }
}

#[test]
fn dockerfiles() {
    let examples: Vec<&[u8]> = EXAMPLES.iter().map(|text| text.as_bytes()).collect();
    feed(&examples, |bytes| {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        match parse(bytes) {
            Ok(file) => use_file(&file),
            Err(error) => {
                assert!(
                    error.place.line <= lines && !error.message.is_empty(),
                    "{error} of {lines} lines"
                );
                let text = String::from_utf8_lossy(bytes);
                excerpt::locate(&error.message, "Dockerfile", &text, error.place);
            }
        }
    });
}

#[test]
fn ignore_files() {
    let examples = [
        "*.md\n!README.md\n# comment\n/a/./b/../c\n",
        "**/node_modules\nsub/**\n![a-z]?x\\*\n",
        "*\n!src\nsrc/**/[^a-c]*\n",
    ];
    feed_text(&examples, |text| {
        let Ok(ignore) = Ignore::parse(text) else { return };
        for path in [
            "README.md",
            "a/c",
            "sub/node_modules/x/y",
            "src/deep/z",
            "ü/\u{feff}",
        ] {
            let _ = ignore.excludes(path);
        }
    });
}

#[test]
fn listings_of_contexts() {
    let entry = |path: &str, kind| ContextEntry {
        path: path.to_owned(),
        kind,
        mode: 0o644,
        modified_ns: 1_700_000_000_123_456_789,
        identity: Some(FileIdentity {
            changed_ns: 1_700_000_000_123_456_789,
            inode: 300,
            device: 2049,
        }),
        is_recent: false,
        capability: Vec::new(),
    };
    let entries = [
        entry("d", EntryKind::Directory),
        entry("d/f", EntryKind::File { bytes: 300 }),
        entry("d/g", EntryKind::HardLink("d/f".to_owned())),
        entry("l", EntryKind::Symlink("d/f".to_owned())),
    ];
    feed(&[&listing::encode(entries.iter())], |bytes| {
        if let Ok(entries) = listing::decode(bytes, 1 << 20) {
            let again = listing::encode(entries.iter());
            assert_eq!(listing::decode(&again, 1 << 20), Ok(entries));
        }
    });
}

#[test]
fn words_with_variables() {
    let variables: std::collections::BTreeMap<String, String> = [
        ("A".to_owned(), "a/b.c".to_owned()),
        ("E".to_owned(), String::new()),
    ]
    .into();
    let examples = [
        "${A##*/}-${A%.*}-${A//\\//x}",
        "\"$A 'b' ${E:-${A:+x}}\" '$E' \\$A",
        "${A:?x} ${NONE:-'}'} $",
    ];
    feed_text(&examples, |text| {
        let _ = words::expand(text, '\\', &variables);
        let _ = words::expand_list(text, '`', &variables);
        let _ = words::split(text, '\\');
    });
}

/// Found by `dockerfiles`: each argument had a copy of its whole line, so that 100 kB became 1 GB.
#[test]
fn a_line_of_many_arguments_is_kept_once() {
    let line = format!("ARG{}\n", " A=${B:-C".repeat(10_000));
    let file = parse(format!("{line}FROM x\n").as_bytes()).unwrap();
    assert_eq!(file.global_arguments().count(), 10_000);
    let kept: usize = file.arguments.iter().map(|kept| kept.text.len()).sum();
    assert!(kept <= line.len(), "{kept} bytes are kept of {}", line.len());
}
