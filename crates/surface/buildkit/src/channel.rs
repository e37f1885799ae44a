//! A client's connection, turned around: we call the services that it serves.

use crate::error::{KitError, Result};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioExecutor;
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

/// What may be in flight of one stream, and of all; as much as makes a local socket wait for nobody.
const WINDOW_BYTES: u32 = 4 << 20;

/// Calls over one connection; a copy uses the same.
#[derive(Debug, Clone)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    /// Begins HTTP/2 as its client. The future is the connection: it must be driven, and ends with it.
    pub async fn open<I>(connection: I) -> Result<(Self, impl Future<Output = ()> + Send)>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(connection)
            .await
            .map_err(|error| KitError::Connection(error.to_string()))?;
        let driven = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session's connection broke");
            }
        };
        Ok((Self(sender), driven))
    }

    async fn ready(&self) -> Result<Grpc<Self>> {
        let mut grpc = Grpc::with_origin(self.clone(), Uri::from_static("http://session"));
        grpc.ready()
            .await
            .map_err(|error| KitError::Connection(error.to_string()))?;
        Ok(grpc)
    }

    /// One question, one answer.
    pub async fn ask<Q, A>(&self, what: &'static str, path: &'static str, question: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::from_static(path);
        let answer = self
            .ready()
            .await?
            .unary(tonic::Request::new(question), path, ProstCodec::<Q, A>::default())
            .await
            .map_err(KitError::refused(what))?;
        Ok(answer.into_inner())
    }

    /// Messages both ways.
    pub async fn converse<Q, A, S>(
        &self,
        what: &'static str,
        path: &'static str,
        questions: tonic::Request<S>,
    ) -> Result<tonic::Streaming<A>>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
        S: futures_util::Stream<Item = Q> + Send + 'static,
    {
        let path = PathAndQuery::from_static(path);
        let answers = self
            .ready()
            .await?
            .streaming(questions, path, ProstCodec::<Q, A>::default())
            .await
            .map_err(KitError::refused(what))?;
        Ok(answers.into_inner())
    }
}

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
