//! The instructions, as plain data.

use naru_oci::Healthcheck;

/// The names of an `ARG` with their defaults.
pub type Arguments = Vec<(String, Option<String>)>;

/// A line for the shell, or words for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// A file written in the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// The name was not quoted: variables in the content are expanded.
    pub expands: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Add(Transfer),
    Arg(Arguments),
    Cmd(Command),
    Copy(Transfer),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    Maintainer(String),
    /// An instruction for whoever builds upon the image.
    OnBuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// The whole command is this file, whose first line names its interpreter.
    pub script: Option<Heredoc>,
    /// Values of `--mount`.
    pub mounts: Vec<String>,
    pub network: Option<String>,
    pub security: Option<String>,
}

/// What `ADD` and `COPY` bring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    pub sources: Vec<String>,
    pub heredocs: Vec<Heredoc>,
    pub target: String,
    /// A stage, an image or a named context.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub excludes: Vec<String>,
    /// Of a URL's content: `sha256:…`.
    pub checksum: Option<String>,
    pub keep_git_dir: bool,
    /// `None`: archives of the context are unpacked, those of URLs are not.
    pub unpack: Option<bool>,
}

/// Every instruction's word.
pub(crate) const WORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
