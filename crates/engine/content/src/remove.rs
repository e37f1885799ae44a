//! Removing names and images, by Docker's rules and in its words (moby `daemon/images/image_delete.go`, 20.10).
//!
//! `images.json` is replaced first and the files go after, so a crash in between leaves layers that the next `open`
//! deletes, never an image without its layers.

use crate::error::ContentError;
use crate::image::{Image, ImageUser, Removed, UsersOf};
use crate::recovery::remove_any;
use crate::store::ContentStore;
use naru_base::Digest;
use naru_oci::Reference;
use std::collections::HashSet;

/// What a removal decided, before any of it is done.
#[derive(Default)]
struct RemovalPlan {
    untag: Vec<Reference>,
    deletes_image: bool,
}

impl ContentStore {
    /// Removes a name, and the image with its last one; or an image by id. Images here have no parents, so
    /// `no_prune` changes nothing. The files are gone when this returns.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        no_prune: bool,
        users: UsersOf<'_>,
    ) -> Result<Vec<Removed>, ContentError> {
        let _ = no_prune;
        let _change = self.begin_change();
        let (id, plan) = {
            let state = self.read();
            let id = state.resolve(reference)?;
            let names = state.names_of(&id);
            (
                id.clone(),
                plan_removal(&id, reference, &names, force, &users(&id))?,
            )
        };
        self.apply_removal(&id, plan)
    }

    /// Removes images that nothing uses: those without a tag, or with `dangling_only` false all of them, where
    /// `is_meant` says so. Returns the bytes of the layers that went too.
    pub fn prune(
        &self,
        dangling_only: bool,
        is_meant: &dyn Fn(&Image) -> bool,
        users: UsersOf<'_>,
    ) -> Result<(Vec<Removed>, u64), ContentError> {
        let _change = self.begin_change();
        let before = self.layer_bytes();
        let candidates: Vec<(Digest, Vec<Reference>)> = {
            let state = self.read();
            let listed = state.images.iter().filter(|(_, image)| image.is_listed);
            listed
                .filter(|(id, _)| state.view(id).is_some_and(|image| is_meant(&image)))
                .map(|(id, _)| (id.clone(), state.names_of(id)))
                .collect()
        };
        let mut removed = Vec::new();
        for (id, names) in candidates {
            let is_dangling = !names.iter().any(|name| name.tag().is_some());
            if (dangling_only && !is_dangling) || !users(&id).is_empty() {
                continue;
            }
            removed.extend(self.apply_removal(
                &id,
                RemovalPlan {
                    untag: names,
                    deletes_image: true,
                },
            )?);
        }
        Ok((removed, before.saturating_sub(self.layer_bytes())))
    }

    fn layer_bytes(&self) -> u64 {
        self.read().layers.values().map(|layer| layer.bytes).sum()
    }

    fn apply_removal(&self, id: &Digest, plan: RemovalPlan) -> Result<Vec<Removed>, ContentError> {
        let names: HashSet<String> = plan.untag.iter().map(ToString::to_string).collect();
        let mut index = self.read().index();
        index.names.retain(|name, _| !names.contains(name));
        // What a build keeps only goes out of sight.
        let stays_hidden = plan.deletes_image && index.images.get(id).is_some_and(|image| image.is_step);
        if stays_hidden {
            index.images.entry(id.clone()).and_modify(|image| {
                image.is_hidden = true;
                image.attested = None;
                if image.annotations.take().is_some() {
                    image.manifest = None;
                }
            });
        } else if plan.deletes_image {
            index.images.remove(id);
        }
        self.layout.write_index(&index)?;
        let (manifest, attested) = {
            let mut state = self.write();
            state.names.retain(|name, _| !names.contains(name));
            if stays_hidden {
                let hidden = state.images.get_mut(id);
                hidden.map_or((None, None), |image| {
                    image.is_listed = false;
                    let annotated = image.annotations.take();
                    (
                        annotated.and_then(|_| image.manifest.take()),
                        image.attested.take(),
                    )
                })
            } else if plan.deletes_image {
                let removed = state.images.remove(id);
                removed.map_or((None, None), |image| (image.manifest, image.attested))
            } else {
                (None, None)
            }
        };
        self.remove_predicates(attested.as_deref())?;
        self.remove_manifest(manifest.as_ref())?;
        let mut removed: Vec<Removed> = plan
            .untag
            .iter()
            .map(|n| Removed::Untagged(n.familiar()))
            .collect();
        if plan.deletes_image {
            removed.push(Removed::Deleted(id.clone()));
        }
        if plan.deletes_image && !stays_hidden {
            remove_any(&self.layout.blob(id))?;
            let layers = self.collect_layers()?;
            removed.extend(
                layers
                    .iter()
                    .map(|layer| Removed::Deleted(layer.chain_id.clone())),
            );
        }
        Ok(removed)
    }
}

fn is_id_prefix(id: &Digest, text: &str) -> bool {
    id.as_str().starts_with(text) || id.hex().starts_with(text)
}

/// Whether all names are one tag with its digests, or fewer.
fn is_single_reference(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let mut tags = names.iter().filter(|name| name.digest().is_none());
    let first = tags.next();
    if tags.next().is_some() {
        return false;
    }
    let single = first.unwrap_or(&names[0]).repository();
    let digested: HashSet<String> = names
        .iter()
        .filter(|n| n.digest().is_some())
        .map(Reference::repository)
        .collect();
    digested.len() == 1 && digested.contains(&single)
}

fn plan_removal(
    id: &Digest,
    reference: &str,
    names: &[Reference],
    force: bool,
    users: &[ImageUser],
) -> Result<RemovalPlan, ContentError> {
    let mut plan = RemovalPlan::default();
    let mut remaining = names.to_vec();
    let by_name = !is_id_prefix(id, reference);
    if by_name {
        plan_untag(id, reference, &mut remaining, force, users, &mut plan)?;
        if !remaining.is_empty() {
            return Ok(plan);
        }
    } else if is_single_reference(names) {
        check_conflict(id, force, 0, users)?;
        plan.untag.append(&mut remaining);
    }
    match check_conflict(id, force, remaining.len(), users) {
        Ok(()) => {
            plan.untag.append(&mut remaining);
            plan.deletes_image = true;
            Ok(plan)
        }
        // The name was asked for and is gone; that the image stays because it is used is no failure.
        Err(_) if by_name => Ok(plan),
        Err(conflict) => Err(conflict),
    }
}

/// Plans to remove one name, and digests of the same repository that lost their last tag with it.
fn plan_untag(
    id: &Digest,
    reference: &str,
    remaining: &mut Vec<Reference>,
    force: bool,
    users: &[ImageUser],
    plan: &mut RemovalPlan,
) -> Result<(), ContentError> {
    if let (false, true, Some(user)) = (force, is_single_reference(remaining), users.first()) {
        return Err(ContentError::Conflict(format!(
            "conflict: unable to remove repository reference \"{reference}\" (must force) - container {} is using \
             its referenced image {}",
            user.container.short(),
            id.short()
        )));
    }
    let named = Reference::parse(reference)?.or_latest();
    let is_named = |name: &Reference| match named.digest() {
        Some(digest) => name.repository() == named.repository() && name.digest() == Some(digest),
        None => *name == named,
    };
    let has_tag = |name: &Reference| name.digest().is_none() && name.repository() == named.repository();
    plan.untag
        .extend(remaining.iter().filter(|name| is_named(name)).cloned());
    remaining.retain(|name| !is_named(name));
    if named.digest().is_none() && !remaining.iter().any(has_tag) {
        let (same, other): (Vec<_>, Vec<_>) = remaining
            .drain(..)
            .partition(|name| name.repository() == named.repository());
        plan.untag.extend(same);
        *remaining = other;
    }
    Ok(())
}

fn check_conflict(id: &Digest, force: bool, names: usize, users: &[ImageUser]) -> Result<(), ContentError> {
    let conflict = |how: &str, why: &str| {
        let text = format!("conflict: unable to delete {} ({how}) - {why}", id.short());
        Err(ContentError::Conflict(text))
    };
    if let Some(user) = users.iter().find(|user| user.is_running) {
        let why = format!(
            "image is being used by running container {}",
            user.container.short()
        );
        return conflict("cannot be forced", &why);
    }
    if force {
        return Ok(());
    }
    if names > 0 {
        return conflict("must be forced", "image is referenced in multiple repositories");
    }
    match users.first() {
        Some(user) => {
            let why = format!(
                "image is being used by stopped container {}",
                user.container.short()
            );
            conflict("must be forced", &why)
        }
        None => Ok(()),
    }
}
