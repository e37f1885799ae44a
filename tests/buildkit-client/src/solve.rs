//! A solve with a session of the client's own: the context is uploaded; outputs and caches are served on the published bindings.
//!
//! `buildkit-client SOCKET solve ARCHIVE WORD…`, a word for each thing that is wanted:
//! `output:TYPE[,key=value…]`, of which archives are written to `dest=` and files shown;
//! `cache-to:TYPE,key=value…`, `cache-from:TYPE,key=value…`, `option:KEY=VALUE` of the frontend;
//! `containerd:SOCKET`: whose store is served for `type=local`. What the engine answers is shown as `KEY VALUE`.

use crate::call;
use bollard_buildkit_proto::fsutil::types::{Packet, packet::PacketType};
use bollard_buildkit_proto::moby::buildkit::v1::{self as kit, CacheOptionsEntry, Exporter};
use bollard_buildkit_proto::moby::filesync::packet::file_send_server as packets;
use bollard_buildkit_proto::moby::filesync::v1::{BytesMessage, file_send_server as bytes};
use bollard_buildkit_proto::moby::upload::v1::upload_server::UploadServer;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codegen::http::{self, HeaderValue};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const SESSION: &str = "session-of-the-test";
const CONTENT: &str = "containerd.services.content.v1.Content";

/// Writes an archive.
struct Archive(PathBuf);

#[tonic::async_trait]
impl bytes::FileSend for Archive {
    type DiffCopyStream = Answers<BytesMessage>;

    async fn diff_copy(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let mut file = std::fs::File::create(&self.0)?;
        let mut pieces = request.into_inner();
        while let Some(piece) = pieces.message().await? {
            file.write_all(&piece.data)?;
        }
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

/// Asks for every file and shows what it was told.
struct Files;

fn packet(kind: PacketType, id: u32) -> Packet {
    Packet { r#type: kind.into(), id, ..Packet::default() }
}

#[tonic::async_trait]
impl packets::FileSend for Files {
    type DiffCopyStream = Answers<Packet>;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let mut theirs = request.into_inner();
        let (ours, answers) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let (mut number, mut waiting, mut has_all) = (0, BTreeMap::new(), false);
            while let Ok(Some(told)) = theirs.message().await {
                match (told.r#type(), told.stat) {
                    (PacketType::PacketStat, Some(stat)) => {
                        // Go's bits for whatever is no plain file.
                        let is_file = stat.mode & 0x8f28_0000 == 0 && stat.linkname.is_empty();
                        if is_file {
                            ours.send(Ok(packet(PacketType::PacketReq, number))).await.unwrap();
                            waiting.insert(number, (stat, Vec::new()));
                        } else {
                            show("entry", &stat, &[]);
                        }
                        number += 1;
                    }
                    (PacketType::PacketStat, None) => has_all = true,
                    (PacketType::PacketData, _) if told.data.is_empty() => {
                        let (stat, content) = waiting.remove(&told.id).unwrap();
                        show("file", &stat, &content);
                    }
                    (PacketType::PacketData, _) => waiting.get_mut(&told.id).unwrap().1.extend(told.data),
                    _ => {}
                }
                if has_all && waiting.is_empty() {
                    ours.send(Ok(packet(PacketType::PacketFin, 0))).await.unwrap();
                    has_all = false;
                }
            }
        });
        let answers = tokio_stream::iter(std::iter::repeat(())).then({
            let answers = std::sync::Arc::new(tokio::sync::Mutex::new(answers));
            move |()| {
                let answers = answers.clone();
                async move { answers.lock().await.recv().await }
            }
        });
        Ok(Response::new(Box::pin(answers.take_while(Option::is_some).filter_map(|packet| packet))))
    }
}

fn show(kind: &str, stat: &bollard_buildkit_proto::fsutil::types::Stat, content: &[u8]) {
    let attributes: BTreeMap<_, _> = stat.xattrs.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
    let text = String::from_utf8_lossy(&content[..content.len().min(40)]);
    println!("{kind} {} {:o} {}:{} {:?} {text:?} {attributes:?}", stat.path, stat.mode & 0o777, stat.uid, stat.gid, stat.linkname);
}

/// Hands calls on to containerd, whose own service this is.
#[derive(Clone)]
struct Content(Channel);

impl tonic::server::NamedService for Content {
    const NAME: &'static str = CONTENT;
}

impl Service<http::Request<tonic::body::Body>> for Content {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let mut channel = self.0.clone();
        Box::pin(async move {
            let store = request.headers_mut().remove("buildkit-attachable-store-id");
            if store.as_ref().and_then(|store| store.to_str().ok()) != Some("local:store") {
                return Ok(Status::not_found(format!("there is no store {store:?}")).into_http());
            }
            request.headers_mut().insert("containerd-namespace", HeaderValue::from_static("test"));
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            Ok(channel.call(request).await.unwrap().map(tonic::body::Body::new))
        })
    }
}

async fn containerd(socket: String) -> Channel {
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://containerd").connect_with_connector(connect).await.unwrap()
}

fn read(word: &str) -> (String, HashMap<String, String>) {
    let mut parts = word.split(',');
    let kind = parts.next().unwrap().to_owned();
    (kind, parts.map(|part| part.split_once('=').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

pub async fn solve(words: &[String]) {
    let (socket, archive) = (&words[0], std::fs::read(&words[2]).unwrap());
    let mut router = Server::builder().add_service(UploadServer::new(call::Archive(archive)));
    let mut methods = vec!["/moby.upload.v1.Upload/Pull".to_owned()];
    let mut options = HashMap::from([("context".to_owned(), "http://buildkit-session/context".to_owned())]);
    let (mut exporters, mut cache) = (Vec::new(), kit::CacheOptions::default());
    for word in &words[3..] {
        let (what, rest) = word.split_once(':').unwrap();
        match what {
            "output" => {
                let (kind, mut attrs) = read(rest);
                let dest = attrs.remove("dest");
                if kind == "local" || dest.is_some() {
                    methods.push("/moby.filesync.v1.FileSend/DiffCopy".to_owned());
                }
                router = match dest {
                    Some(dest) => router.add_service(bytes::FileSendServer::new(Archive(dest.into()))),
                    None => router.add_service(packets::FileSendServer::new(Files)),
                };
                exporters.push(Exporter { r#type: kind, attrs });
            }
            "cache-to" | "cache-from" => {
                let (r#type, attrs) = read(rest);
                let list = if what == "cache-to" { &mut cache.exports } else { &mut cache.imports };
                list.push(CacheOptionsEntry { r#type, attrs });
            }
            "option" => {
                let (key, value) = rest.split_once('=').unwrap();
                options.insert(key.to_owned(), value.to_owned());
            }
            "containerd" => {
                router = router.add_service(Content(containerd(rest.to_owned()).await));
                methods.extend(["Info", "Read", "Status", "Write", "Abort"].map(|method| format!("/{CONTENT}/{method}")));
            }
            _ => panic!("unknown word {word}"),
        }
    }
    let mut headers = format!("X-Docker-Expose-Session-Uuid: {SESSION}-{}\r\n", std::process::id());
    for method in methods {
        headers += &format!("X-Docker-Expose-Session-Grpc-Method: {method}\r\n");
    }
    let stream = crate::connect(socket, "/session", &headers).await.unwrap();
    tokio::spawn(router.serve_with_incoming(tokio_stream::iter([Ok::<_, std::io::Error>(stream)]).chain(tokio_stream::pending())));
    let request = kit::SolveRequest {
        r#ref: format!("solve-{}", std::process::id()),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: options,
        session: format!("{SESSION}-{}", std::process::id()),
        exporters,
        cache: Some(cache),
        ..kit::SolveRequest::default()
    };
    let mut client = kit::control_client::ControlClient::new(call::channel(socket).await);
    match client.solve(request).await {
        Ok(response) => {
            let told: BTreeMap<_, _> = response.into_inner().exporter_response.into_iter().collect();
            told.iter().for_each(|(key, value)| println!("{key} {value}"));
        }
        Err(status) => {
            eprintln!("{:?}: {}", status.code(), status.message());
            std::process::exit(1);
        }
    }
}
