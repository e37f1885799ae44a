//! Builds an archived context through BuildKit's interface, as buildx's driver for Docker does:
//! `buildkit-client SOCKET ARCHIVE NAME [arg:K=V label:K=V secret:ID=FILE target=STAGE nocache=1 …]`.

use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput, SecretSource};
use bollard::grpc::driver::{Build, moby::Moby};
use bollard::{API_DEFAULT_VERSION, Docker};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
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
