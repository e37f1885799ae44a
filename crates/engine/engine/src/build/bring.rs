//! `COPY` and `ADD`: what they mean for a stage, whether it was made before, and the layer it becomes.

use super::cache;
use super::layer::{LayerPlan, Placing, is_archive, put_items};
use super::packed::PackedTree;
use super::solve::{Builder, Stage, wrong};
use super::transfer::{self, Item, Selection};
use super::tree::{Root, SourceTree};
use super::why::{BROUGHT, Inputs};
use crate::archive::{ChunkReader, blocking};
use crate::error::{EngineError, Result};
use naru_base::{ContainerId, Digest};
use naru_build::configure::{StageState, joined_path};
use naru_build::dockerfile::Transfer;
use naru_build::ignore::Ignore;
use naru_build::stages::Source;
use naru_build::words;
use naru_build::{Instruction, Line};
use naru_content::Image;
use naru_oci::ImageConfig;
use naru_runtime::plan::RootfsPlan;
use naru_runtime::view::{self, Base, View};
use serde::Serialize;
use std::sync::Arc;

/// All that can change what a `COPY` or `ADD` makes.
#[derive(Serialize)]
struct TransferInputs<'a> {
    step: &'static str,
    layers: &'a [Digest],
    content: &'a Digest,
    target: &'a str,
    chown: &'a str,
    chmod: Option<u32>,
    unpacks: bool,
    time: i64,
}

/// A transfer with its words expanded.
struct ResolvedTransfer {
    selection: Selection,
    remotes: Vec<String>,
    texts: Vec<(String, Vec<u8>)>,
    /// As the base's user database knows it.
    chown: String,
    placing: Placing,
    unpacks: bool,
    unpacks_remotes: bool,
}

impl Builder {
    pub(super) async fn bring(
        &self,
        stage: &mut Stage,
        line: &Line<Instruction>,
        transfer: &Transfer,
        is_add: bool,
    ) -> Result<bool> {
        let failed = |error: EngineError| copy_failed(line, &error);
        let wanted = self.resolve_transfer(stage, line, transfer, is_add)?;
        let has_sources = !wanted.selection.sources.is_empty();
        let tree = if has_sources || transfer.from.is_some() {
            self.source_tree(transfer.from.as_deref()).await.map_err(failed)?
        } else {
            no_tree()
        };
        let tree = Arc::new(tree);
        let mut fetched = Vec::new();
        for remote in &wanted.remotes {
            let checksum = transfer.checksum.as_deref();
            let item = self.fetch_item(remote, checksum, transfer.keep_git_dir).await;
            fetched.push(item.map_err(failed)?);
        }
        let (selection, texts, chmod) = (wanted.selection, wanted.texts, wanted.placing.mode);
        let (brought, content) = blocking(move || {
            let (selected, items) = selection.digest(&tree)?;
            let text = |(name, text)| transfer::text_item(&tree, name, text, 0o644);
            let texts: Vec<Item> = texts.into_iter().map(text).collect();
            let contents = (
                selected,
                transfer::digest_items(&texts)?,
                transfer::digest_items(&fetched)?,
            );
            let brought = Brought {
                tree,
                selection,
                items,
                texts,
                fetched,
            };
            Ok((brought, cache::key_of(&contents)))
        })
        .await
        .map_err(failed)?;
        let inputs = TransferInputs {
            step: "transfer",
            layers: stage.layers(),
            content: &content,
            target: &wanted.placing.target,
            chown: &wanted.chown,
            chmod,
            unpacks: wanted.unpacks || wanted.unpacks_remotes,
            time: stage.time,
        };
        let step = self.begin_step(cache::key_of(&inputs), stage).await;
        if let Some(image) = self.cached(&step, stage, &line.text).await {
            return Ok(stage.advance(image));
        }
        let (items, fetched) = blocking(move || brought.find()).await.map_err(failed)?;
        let mut told = Inputs::new(line, stage);
        told.sum(BROUGHT, content.as_str());
        told.fact("the target", &wanted.placing.target);
        told.fact("--chown", &wanted.chown);
        told.fact(
            "--chmod",
            &chmod.map_or_else(String::new, |mode| format!("{mode:o}")),
        );
        told.fact("the time of its files", &stage.time.to_string());
        told.bring(&items);
        told.bring(&fetched);
        let told = self.tell_why(stage, line, told).await;
        let ready = Ready {
            items,
            fetched,
            chown: wanted.chown,
            placing: wanted.placing,
            unpacks: wanted.unpacks,
            unpacks_remotes: wanted.unpacks_remotes,
        };
        let image = self.make_layer(stage, ready).await.map_err(failed)?;
        self.keep_step(&step.key, &image, &line.text)?;
        told.keep().await;
        Ok(stage.advance(image))
    }

    fn resolve_transfer(
        &self,
        stage: &Stage,
        line: &Line<Instruction>,
        transfer: &Transfer,
        is_add: bool,
    ) -> Result<ResolvedTransfer> {
        let escape = self.file.escape;
        let expand = |text: &str| stage.state.expand(line, text, escape);
        let sources = transfer
            .sources
            .iter()
            .map(|source| expand(source))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let (remotes, sources): (Vec<_>, Vec<_>) = sources
            .into_iter()
            .partition(|source| is_add && super::remote::is_remote(source));
        if transfer.checksum.is_some() && (remotes.len() != 1 || !sources.is_empty()) {
            return Err(wrong(
                line,
                "checksum can't be specified for non-HTTP(S) sources, nor for several",
            ));
        }
        let mut excludes = Ignore::default();
        let mut exclude_words = Vec::new();
        for pattern in &transfer.excludes {
            let words = expand(pattern)?;
            excludes
                .push(&words, false)
                .map_err(|reason| wrong(line, format!("--exclude={pattern}: {reason}")))?;
            exclude_words.push(words);
        }
        let texts = transfer
            .heredocs
            .iter()
            .map(|heredoc| {
                let content = if heredoc.expands {
                    expand_text(&heredoc.content, &stage.state, escape)
                } else {
                    Ok(heredoc.content.clone())
                };
                let content = content.map_err(|message| wrong(line, message))?;
                Ok((heredoc.name.clone(), content.into_bytes()))
            })
            .collect::<Result<Vec<_>>>()?;
        let chown = transfer.chown.as_deref().map(expand).transpose()?;
        Ok(ResolvedTransfer {
            selection: Selection {
                sources,
                keeps_parents: transfer.parents,
                excludes,
                exclude_words,
            },
            remotes,
            texts,
            chown: chown.unwrap_or_default(),
            placing: self.resolve_placing(stage, line, transfer)?,
            unpacks: transfer.unpack.unwrap_or(is_add),
            unpacks_remotes: transfer.unpack.unwrap_or(false),
        })
    }

    fn resolve_placing(
        &self,
        stage: &Stage,
        line: &Line<Instruction>,
        transfer: &Transfer,
    ) -> Result<Placing> {
        let expand = |text: &str| stage.state.expand(line, text, self.file.escape);
        let target = expand(&transfer.target)?;
        let is_directory = target.ends_with('/') || target.ends_with("/.") || target == ".";
        let mut target = joined_path(&stage.state.config.config.working_dir, &target);
        if is_directory && target != "/" {
            target.push('/');
        }
        let mode = transfer.chmod.as_deref().map(expand).transpose()?;
        let read_mode = |text: String| {
            let mode = u32::from_str_radix(&text, 8).ok();
            mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
                let message = format!(
                    "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                );
                wrong(line, message)
            })
        };
        Ok(Placing {
            target,
            owner: None,
            mode: mode.map(read_mode).transpose()?,
            time: stage.time,
        })
    }

    /// Where a transfer's sources, or a mount's, are.
    pub(super) async fn source_tree(&self, from: Option<&str>) -> Result<SourceTree> {
        let Some(from) = from else {
            return Ok(SourceTree {
                root: Root::Packed(self.context.tree().await?),
                name: "build context".to_owned(),
                keeps_owners: false,
            });
        };
        let image = match self.source_of(from) {
            Source::Stage(index) => self.stage_done(index)?.image,
            Source::Scratch => None,
            Source::Context(name) => return self.named_tree(&name).await,
            Source::Image(name) => Some(self.base_image(&name, None).await?),
        };
        let Some(image) = image else {
            return Err(EngineError::invalid(format!("{from} has no files")));
        };
        self.image_tree(&image, from).await
    }

    /// The files of an image.
    pub(super) async fn image_tree(&self, image: &Arc<Image>, name: &str) -> Result<SourceTree> {
        let Some(view) = self.view_of(Some(image)).await? else {
            return Err(EngineError::invalid(format!("{name} has no files")));
        };
        Ok(SourceTree {
            root: Root::Directory(view.root),
            name: name.to_owned(),
            keeps_owners: true,
        })
    }

    /// An image's layers as one tree to read; nothing where it has none.
    async fn view_of(&self, image: Option<&Arc<Image>>) -> Result<Option<View>> {
        let Some(image) = image.cloned() else {
            return Ok(None);
        };
        let content = Arc::clone(&self.engine.content);
        blocking(move || {
            let layers = content.image_layers(&image);
            if layers.is_empty() {
                return Ok(None);
            }
            let view = view::on_own_thread(|| view::layers(&layers));
            view.map(Some)
                .map_err(|failure| EngineError::system(failure.message))
        })
        .await
    }

    /// Makes the layer straight from the sources; where archives are unpacked, by writing on the stage's own.
    async fn make_layer(&self, stage: &Stage, ready: Ready) -> Result<Arc<Image>> {
        let (ready, has_archives) = blocking(move || {
            let mut has_archives = false;
            for (is_asked, items) in [
                (ready.unpacks, &ready.items),
                (ready.unpacks_remotes, &ready.fetched),
            ] {
                for item in items.iter().filter(|_| is_asked) {
                    has_archives |= is_archive(item)?;
                }
            }
            Ok((ready, has_archives))
        })
        .await?;
        if has_archives {
            return self.unpack_layer(stage, ready).await;
        }
        let view = self.view_of(stage.image.as_ref()).await?;
        let (content, base) = (Arc::clone(&self.engine.content), stage.image.clone());
        blocking(move || {
            let mut placing = ready.placing;
            placing.owner = owner_of(view.as_ref(), &ready.chown)?;
            let items = ready.items.into_iter().chain(ready.fetched).collect();
            let plan = LayerPlan::decide(view.as_ref().map(|view| &view.root), items, &placing)?;
            let archive = ChunkReader::new(plan.archive());
            let made = content
                .add_step(base.as_deref(), plain_config(), archive)
                .map_err(crate::images::error)?;
            content.image(made.id.as_str()).map_err(crate::images::error)
        })
        .await
    }

    async fn unpack_layer(&self, stage: &Stage, ready: Ready) -> Result<Arc<Image>> {
        let put = move |view: &View| {
            let mut placing = ready.placing;
            placing.owner = owner_of(Some(view), &ready.chown)?;
            let mut whole = Vec::new();
            for (unpacks, items) in [
                (ready.unpacks, ready.items),
                (ready.unpacks_remotes, ready.fetched),
            ] {
                if unpacks {
                    put_items(items, &view.root, &placing)?;
                } else {
                    whole.extend(items);
                }
            }
            let plan = LayerPlan::decide(Some(&view.root), whole, &placing)?;
            crate::archive::unpack_into(&view.root, ChunkReader::new(plan.archive()))
        };
        self.change_files(stage, put).await
    }

    /// Lets `change` write on a stage's layers; what it has written is the next one.
    pub(super) async fn change_files(
        &self,
        stage: &Stage,
        change: impl FnOnce(&View) -> Result<()> + Send + 'static,
    ) -> Result<Arc<Image>> {
        let holder = self.holder(stage).await?;
        let id = ContainerId::generate();
        let (content, snapshot_of) = (Arc::clone(&self.engine.content), id.clone());
        let changed = blocking(move || {
            let snapshot = content
                .create_snapshot(&snapshot_of, &holder.id)
                .map_err(crate::images::error)?;
            let rootfs = RootfsPlan::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
            };
            let view = view::on_own_thread(|| view::stopped(&Base::Writable(&rootfs), &[], None))
                .map_err(|failure| EngineError::system(failure.message))?;
            change(&view.ok_or_else(|| EngineError::system("cannot put the stage's files together"))?)
        })
        .await;
        let made = match changed {
            Ok(()) => self.adopt(&id, stage.time).await,
            Err(error) => Err(error),
        };
        let content = Arc::clone(&self.engine.content);
        blocking(move || content.remove_snapshot(&id).map_err(crate::images::error)).await?;
        made
    }
}

/// For what needs no files: texts of the Dockerfile, and what is fetched.
fn no_tree() -> SourceTree {
    SourceTree {
        root: Root::Packed(Arc::new(PackedTree::empty())),
        name: "build context".to_owned(),
        keeps_owners: false,
    }
}

/// What a transfer brings; what is selected of its tree may not have been looked for yet.
struct Brought {
    tree: Arc<SourceTree>,
    selection: Selection,
    items: Option<Vec<Item>>,
    texts: Vec<Item>,
    fetched: Vec<Item>,
}

impl Brought {
    /// Those of the context and the Dockerfile, and those that were fetched.
    fn find(self) -> Result<(Vec<Item>, Vec<Item>)> {
        let mut items = match self.items {
            Some(items) => items,
            None => transfer::find_items(&self.tree, &self.selection)?,
        };
        items.extend(self.texts);
        Ok((items, self.fetched))
    }
}

/// Items and where they go.
struct Ready {
    items: Vec<Item>,
    fetched: Vec<Item>,
    chown: String,
    placing: Placing,
    unpacks: bool,
    unpacks_remotes: bool,
}

/// Of an image whose id is that of its layers: the same layers are the same image.
pub(super) fn plain_config() -> ImageConfig {
    ImageConfig {
        os: "linux".to_owned(),
        ..ImageConfig::default()
    }
}

/// A document's variables; quotes and backslashes in it mean nothing else.
fn expand_text(text: &str, state: &StageState, escape: char) -> Result<String, String> {
    let mut shielded = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' | '"' => shielded.extend([escape, character]),
            character if character == escape => {
                shielded.push(escape);
                // Only a dollar is taken for itself by it.
                if characters.peek() == Some(&'$') {
                    shielded.extend(characters.next());
                } else {
                    shielded.push(escape);
                }
            }
            character => shielded.push(character),
        }
    }
    words::expand(&shielded, escape, state)
}

fn copy_failed(line: &Line<Instruction>, error: &EngineError) -> EngineError {
    let word = if matches!(line.value, Instruction::Add(_)) {
        "ADD"
    } else {
        "COPY"
    };
    EngineError::new(
        error.kind,
        format!(
            "{word} failed on line {} of the Dockerfile: {}",
            line.place.line, error.message
        ),
    )
}

/// The owner that `--chown` means, by the stage's own databases. A number without a group stands for its group too.
fn owner_of(view: Option<&View>, chown: &str) -> Result<Option<(u32, u32)>> {
    if chown.is_empty() {
        return Ok(None);
    }
    let (user, group) = chown.split_once(':').unwrap_or((chown, chown));
    if let (Ok(user), Ok(group)) = (user.parse(), group.parse()) {
        return Ok(Some((user, group)));
    }
    let Some(view) = view else {
        return Err(EngineError::invalid(format!(
            "--chown={chown}: there are no users yet, only numbers can be meant"
        )));
    };
    view::find_user(view, chown)
        .map(Some)
        .map_err(|failure| EngineError::invalid(failure.message))
}
