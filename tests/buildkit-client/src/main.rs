//! Builds an archived context through BuildKit's interface, as buildx's driver for Docker does:
//! `buildkit-client SOCKET control FILTER` asks what is kept and what was built, and prunes what the filter means.
//! `buildkit-client SOCKET call ARCHIVE [KEY=VALUE …]` steers a build as buildx does (see `call`);
//! `buildkit-client SOCKET solve ARCHIVE …` has outputs and caches of its own (see `solve`);
//! `buildkit-client SOCKET ARCHIVE NAME [arg:K=V label:K=V secret:ID=FILE target=STAGE nocache=1 …]`.

mod call;
mod solve;

use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput, SecretSource};
use bollard::grpc::driver::{Build, moby::Moby};
use bollard::{API_DEFAULT_VERSION, Docker};
use bollard_buildkit_proto::moby::buildkit::v1 as kit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The interface over a connection that has left HTTP/1.
async fn connect(socket: &str, path: &str, headers: &str) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}Content-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    Ok(stream)
}

async fn control(socket: &str, filter: &str) {
    let channel = call::channel(socket).await;
    let mut client = kit::control_client::ControlClient::new(channel);
    let wanted = vec![filter.to_owned()];
    let usage = kit::DiskUsageRequest { filter: wanted.clone(), ..Default::default() };
    for record in client.disk_usage(usage).await.unwrap().into_inner().record {
        println!("kept {} {} {} {}", record.record_type, record.size, record.usage_count, record.description);
    }
    let prune = kit::PruneRequest { filter: wanted, all: true, ..Default::default() };
    let mut pruned = client.prune(prune).await.unwrap().into_inner();
    while let Some(record) = pruned.message().await.unwrap() {
        println!("pruned {}", record.description);
    }
    let history = kit::BuildHistoryRequest { early_exit: true, ..Default::default() };
    let mut history = client.listen_build_history(history).await.unwrap().into_inner();
    while let Some(event) = history.message().await.unwrap() {
        let record = event.record.unwrap();
        let update = kit::UpdateBuildHistoryRequest { r#ref: record.r#ref, delete: true, ..Default::default() };
        client.update_build_history(update).await.unwrap();
        println!("built {} {}", event.r#type, record.error.map(|error| error.message).unwrap_or_default());
    }
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words[1] == "control" {
        return control(&words[0], &words[2]).await;
    }
    if words[1] == "call" {
        return call::call(&words[0], &words[2], &words[3..]).await;
    }
    if words[1] == "solve" {
        return solve::solve(&words).await;
    }
    let docker = Docker::connect_with_unix(&words[0], 120, API_DEFAULT_VERSION).unwrap();
    let archive = std::fs::read(&words[1]).unwrap();
    let mut options = ImageBuildFrontendOptions::builder();
    for word in &words[3..] {
        let (key, value) = word.split_once('=').unwrap();
        options = match key.split_once(':') {
            Some(("arg", name)) => options.buildarg(name, value),
            Some(("label", name)) => options.label(name, value),
            Some(("secret", name)) => options.set_secret(name, &SecretSource::File(value.into())),
            _ if key == "target" => options.target(value),
            _ if key == "nocache" => options.nocache(true),
            _ => panic!("unknown option {key}"),
        };
    }
    let built = Moby::new(&docker)
        .docker_build(&words[2], options.build(), ImageBuildLoadInput::Upload(archive.into()), None, None)
        .await;
    if let Err(error) = built {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
}
