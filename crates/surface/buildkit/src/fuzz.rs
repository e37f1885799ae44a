//! Messages of a client's from anywhere: understood or refused, whatever is in them.

use crate::attributes::read_options;
use crate::caches::add_caches;
use crate::control::{check_frontend, read_outputs};
use crate::disk::read_filters;
use crate::filesync::{Reception, Texts};
use crate::session::SessionDescription;
use crate::wire::{Packet, PacketType, StatusResponse, control, gateway};
use bollard_buildkit_proto::fsutil::types::Stat;
use hyper::HeaderMap;
use naru_fuzz::feed;
use prost::Message;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Packets of one input that are taken; each can make several answers.
const PACKETS_MAX: usize = 500;

fn options(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn solve() -> control::SolveRequest {
    control::SolveRequest {
        r#ref: "a".to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: options(&[
            ("filename", "Dockerfile"),
            ("build-arg:A", "1"),
            ("label:k", "v"),
            ("context:base", "docker-image://x"),
            ("context:more", "local:more"),
            ("context", "https://example.com/x.git#main:sub"),
            ("ulimit", "nofile=1:2,core=0"),
            ("shm-size", "64"),
            ("add-hosts", "a=1.2.3.4"),
            ("attest:provenance", "mode=min,disabled=true"),
            ("platform", "linux/arm64/v8"),
            ("no-cache", ""),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"a/b"}}]"#),
        ]),
        session: "session".to_owned(),
        exporters: vec![control::Exporter {
            r#type: "image".to_owned(),
            attrs: options(&[("name", "a:b,c"), ("push", "true")]),
        }],
        cache: Some(control::CacheOptions {
            imports: vec![control::CacheOptionsEntry {
                r#type: "registry".to_owned(),
                attrs: options(&[("ref", "localhost:1/a"), ("mode", "max")]),
            }],
            ..control::CacheOptions::default()
        }),
        ..control::SolveRequest::default()
    }
}

#[test]
fn solve_requests() {
    let with_definition = control::SolveRequest {
        definition: Some(bollard_buildkit_proto::pb::Definition {
            def: vec![vec![10, 2, 8, 1], Vec::new()],
            ..Default::default()
        }),
        ..solve()
    };
    let steered = gateway::SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        frontend_opt: solve().frontend_attrs,
        ..gateway::SolveRequest::default()
    };
    let examples = [
        solve().encode_to_vec(),
        with_definition.encode_to_vec(),
        steered.encode_to_vec(),
    ];
    let examples: Vec<&[u8]> = examples.iter().map(Vec::as_slice).collect();
    feed(&examples, |bytes| {
        if let Ok(request) = control::SolveRequest::decode(bytes) {
            let _ = check_frontend(&request.frontend, request.definition.is_some());
            let _ = read_outputs(&request);
            if let Ok((mut build, _)) = read_options(&request.frontend_attrs) {
                let _ = add_caches(&mut build, request.cache.as_ref());
            }
            assert_eq!(
                control::SolveRequest::decode(&request.encode_to_vec()[..]).as_ref(),
                Ok(&request)
            );
        }
        if let Ok(request) = gateway::SolveRequest::decode(bytes) {
            let _ = read_options(&request.frontend_opt);
        }
        let _ = gateway::ReturnRequest::decode(bytes);
        let _ = StatusResponse::decode(bytes);
    });
}

#[test]
fn options_and_conditions() {
    let examples: &[&[u8]] = &[
        b"filename=x\nulimit=nofile=1:2\nshm-size=9\nplatform=linux/amd64",
        b"type==regular,id~=^a.*b$\nshared\nusage!=1",
        b"X-Docker-Expose-Session-Uuid=a\nX-Docker-Expose-Session-Grpc-Method=/a/B",
    ];
    feed(examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let _ = read_options(&options(&pairs));
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let _ = read_filters(&lines);
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            if let (Ok(name), Ok(value)) = (
                name.parse::<hyper::header::HeaderName>(),
                value.parse::<hyper::header::HeaderValue>(),
            ) {
                headers.append(name, value);
            }
        }
        let _ = SessionDescription::read(&headers);
    });
}

fn stat(path: &str, mode: u32, size: i64) -> Packet {
    Packet {
        r#type: PacketType::PacketStat.into(),
        stat: Some(Stat {
            path: path.to_owned(),
            mode,
            size,
            ..Stat::default()
        }),
        ..Packet::default()
    }
}

fn packet(kind: PacketType, id: u32, data: &[u8]) -> Packet {
    Packet {
        r#type: kind.into(),
        id,
        data: data.to_vec(),
        ..Packet::default()
    }
}

fn joined(packets: &[Packet]) -> Vec<u8> {
    packets
        .iter()
        .flat_map(Message::encode_length_delimited_to_vec)
        .collect()
}

/// A client's side of a transfer: descriptions, contents, its end, in any order.
#[test]
fn files_of_a_client() {
    let examples = [
        joined(&[
            stat(".dockerignore", 0o644, 3),
            stat("Dockerfile", 0o644, 5),
            stat("sub", 1 << 31 | 0o755, 0),
            packet(PacketType::PacketStat, 0, b""),
            packet(PacketType::PacketData, 0, b"abc"),
            packet(PacketType::PacketData, 1, b"FROM "),
            packet(PacketType::PacketData, 0, b""),
            packet(PacketType::PacketData, 1, b""),
            packet(PacketType::PacketFin, 0, b""),
        ]),
        joined(&[
            stat("Dockerfile", 1 << 26, -1),
            stat("../x", 1 << 27, 1 << 40),
            packet(PacketType::PacketErr, 9, b"gone"),
            packet(PacketType::PacketReq, 1 << 31, b""),
        ]),
    ];
    let examples: Vec<&[u8]> = examples.iter().map(Vec::as_slice).collect();
    let names = ["Dockerfile", ".dockerignore"].map(str::to_owned);
    feed(&examples, |bytes| {
        let (requests, mut asked) = mpsc::channel(2);
        let mut reception = Reception::new(Texts::new(&names), requests);
        let mut rest = bytes;
        for _ in 0..PACKETS_MAX {
            let Ok(packet) = Packet::decode_length_delimited(&mut rest) else {
                break;
            };
            if reception.take(packet).is_err() {
                break;
            }
            while asked.try_recv().is_ok() {}
        }
    });
}
