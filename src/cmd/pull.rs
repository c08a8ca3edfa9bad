//! `pull`: from a registry into storage, or into a directory.
//!
//! Layers are downloaded, verified and unpacked by a few threads at a time, each into a draft of its own; then they
//! are reconciled in order (what one implies about those below), named, and the image is committed.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::destination::Destination;
use super::fetch::{Fetched, Fetcher, apply, label};
use super::remote::{self, Named, Remote, Remotes, Resolved};
use super::{Host, export, print};
use crate::cli::Options;
use crate::compat::{Compat, compat};
use crate::container;
use crate::container::ownership::{Line, Owner};
use crate::error::{Context, Error, Result, bail};
use crate::image::layers;
use crate::image::layers::Held;
use crate::image::owners::{self, Below};
use crate::log::{info, verbose, warning};
use crate::oci::arch::Wanted;
use crate::oci::digest::Digest;
use crate::oci::manifest::Descriptor;
use crate::oci::reference::ImageRef;
use crate::rootfs::{self, Form, Room, Root, Stack, Unpacked};
use crate::storage::{
    Access, Draft, Image, Ingest, LayerId, LayerInfo, LayerKind, Mode, Owners, Source, Storage, TableWriter,
};

/// Where an image goes.
#[derive(Debug, PartialEq)]
enum Place<'p> {
    /// Into storage, under this name.
    Storage(ImageRef),
    /// Into one file, or an OCI layout.
    Packed(&'p Path),
    Directory(&'p Path),
}

impl Place<'_> {
    /// What the second operand means: since 0.28 a word that is no path is a name, in 0.25 it is a directory.
    fn of<'p>(word: Option<&'p Path>, reference: &ImageRef, compat: Compat) -> Result<Place<'p>> {
        let Some(word) = word else { return Ok(Place::Storage(reference.clone())) };
        if export::is_packed(word) {
            return Ok(Place::Packed(word));
        }
        let text = word.as_os_str().as_bytes();
        let is_path = text.starts_with(b"/") || text.starts_with(b".") || text.ends_with(b"/");
        if is_path || compat == Compat::V025 {
            return Ok(Place::Directory(word));
        }
        ImageRef::parse(&word.to_string_lossy()).map(Place::Storage)
    }
}

pub fn pull(host: &Host, options: &Options, image: &str, place: Option<&Path>) -> Result<()> {
    let reference = ImageRef::parse(image)?;
    if options.parse_only {
        return print(&reference.parse_report());
    }
    let place = Place::of(place, &reference, compat()?)?;
    if let Place::Packed(path) = place {
        export::check(options, path)?;
        // Within a namespace, others look like root.
        host.check_storage_place()?;
        // Before any thread exists; see `export`.
        if let Err(e) = container::enter() {
            verbose!("packing without a user namespace: {e}");
        }
    }
    let storage = host.storage(Access::Write)?;
    let remotes = Remotes::new(options, Named::Image(&reference))?;
    let puller = Puller { host, options, storage: &storage, remotes: &remotes };
    let wanted = remote::wanted(host, options);
    puller.announce(&reference, &wanted);
    match place {
        Place::Packed(path) => puller.to_packed(&reference, &wanted, path)?,
        Place::Directory(directory) => {
            info!("destination:      {}", directory.display());
            puller.to_directory(&reference, directory)?;
        }
        Place::Storage(name) => {
            if name != reference {
                info!("destination:      {name}");
            }
            let _lock = storage.lock_image(&name)?;
            puller.to_storage_as(&reference, &name, &wanted)?;
            storage.free_unused()?;
        }
    }
    info!("done");
    Ok(())
}

/// What a registry and what storage calls an image.
#[derive(Clone, Copy)]
struct Names<'n> {
    remote: &'n ImageRef,
    local: &'n ImageRef,
}

/// What a pull needs; a build has one for its base images.
pub struct Puller<'a> {
    pub host: &'a Host,
    pub options: &'a Options,
    pub storage: &'a Storage,
    pub remotes: &'a Remotes<'a>,
}

impl Puller<'_> {
    /// Pulls an image once more that was damaged, for the architecture that it had.
    pub fn again(&self, image: &Image) -> Result<()> {
        let wanted = image.config.arch().map_or(Wanted::Yolo, Wanted::Arch);
        let _lock = self.storage.lock_image(&image.reference)?;
        self.announce(&image.reference, &wanted);
        self.to_storage(&image.reference, &wanted).map(drop)
    }

    pub fn announce(&self, reference: &ImageRef, wanted: &Wanted) {
        info!("pulling image:    {reference}");
        match wanted {
            Wanted::Yolo => info!("requesting arch:  yolo"),
            Wanted::Arch(arch) => info!("requesting arch:  {arch}"),
        }
    }

    /// Pulls an image into storage. The caller has its lock.
    pub fn to_storage(&self, reference: &ImageRef, wanted: &Wanted) -> Result<Image> {
        self.to_storage_as(reference, reference, wanted)
    }

    /// The same, under another name.
    fn to_storage_as(&self, reference: &ImageRef, name: &ImageRef, wanted: &Wanted) -> Result<Image> {
        if let Some(image) = self.current(reference, name, wanted)? {
            info!("manifest list: using existing file");
            info!("image is current: {}", image.source.as_ref().map_or(String::new(), |s| s.top.to_string()));
            self.say_arch(&image);
            return Ok(image);
        }
        let cache = (!self.options.no_cache).then_some(self.storage);
        let (places, resolved) = remote::find(self.remotes, reference, wanted, cache)?;
        let image = match self.storage.mode() {
            Mode::Overlay => self.stack(&places, Names { remote: reference, local: name }, resolved)?,
            Mode::Plain => self.tree(&places, Names { remote: reference, local: name }, resolved)?,
        };
        self.say_arch(&image);
        Ok(image)
    }

    /// The stored image if the registry's tag still names it: one request.
    fn current(&self, reference: &ImageRef, name: &ImageRef, wanted: &Wanted) -> Result<Option<Image>> {
        if self.options.no_cache || self.options.last_layer.is_some() {
            return Ok(None);
        }
        let Some(image) = self.storage.image(name).ok().flatten() else { return Ok(None) };
        let Some(source) = &image.source else { return Ok(None) };
        let fits = match (wanted, image.config.arch()) {
            (Wanted::Arch(wanted), Some(have)) => wanted.accepts(&have),
            (Wanted::Arch(_), None) => false,
            (Wanted::Yolo, _) => true,
        };
        if source.reference != reference.canonical_remote()
            || !fits
            || !image.layers.iter().all(|id| self.storage.has_layer(id))
        {
            return Ok(None);
        }
        let accept =
            if *wanted == Wanted::Yolo { crate::registry::Accept::Image } else { crate::registry::Accept::Any };
        let now = self.remotes.first(reference, |Remote { client, repository }| {
            client.head_manifest(repository, &reference.version(), accept)
        })?;
        Ok(now.filter(|(_, digest)| *digest == source.top).map(|_| image))
    }

    fn say_arch(&self, image: &Image) {
        if let Some(arch) = image.config.arch() {
            let shown = crate::log::escape(arch.family()).into_owned();
            match self.host.arch().accepts(&arch) {
                true => info!("image arch: {shown}"),
                false => info!("image arch: {shown} (may not match host {})", self.host.arch()),
            }
        }
    }

    /// Overlay mode: one layer directory each.
    fn stack(&self, places: &[Remote], image: Names, resolved: Resolved) -> Result<Image> {
        let diff_ids = diff_ids(&resolved)?;
        let count = self.count(&resolved);
        let descriptors = &resolved.manifest.layers[..count];
        // Names can be known beforehand only if the configuration says diff_ids.
        let names: Vec<Option<LayerId>> = match &diff_ids {
            Some(ids) => layers::chain(&ids[..count]).into_iter().map(Some).collect(),
            None => vec![None; count],
        };
        let here: Vec<bool> = names
            .iter()
            .map(|name| !self.options.no_cache && name.is_some_and(|id| self.storage.has_layer(&id)))
            .collect();
        let fetched = self.fetcher(places, Form::Overlay).fetch_all(descriptors, &here, diff_ids.as_deref())?;
        self.announce_flattening(&resolved.manifest.layers, count);
        let mut ids: Vec<LayerId> = Vec::new();
        // Grows with them: opened anew for each, hundreds of layers would take more descriptors than there are.
        let mut lower = Stack::new(Vec::new()).remembering();
        let mut below = Below::new(self.storage);
        let mut ingests = Vec::new();
        for (i, (fetched, descriptor)) in fetched.into_iter().zip(descriptors).enumerate() {
            let label = label(i, resolved.manifest.layers.len(), descriptor);
            info!("{label}: extracting");
            let parent = ids.last().copied();
            let Some(Fetched { bytes, unpacked: Some(mut apart) }) = fetched else {
                let Some(id) = names[i] else { bail!("{label}: not unpacked") };
                lower.push(Root::open(&self.storage.layer_tree(&id))?);
                ids.push(id);
                continue;
            };
            let id = LayerId::new(Digest::chain(parent.as_ref().map(LayerId::digest), &apart.diff_id));
            ingests.extend(bytes.into_ingest());
            report(&label, &apart.unpacked);
            let (content, owners) =
                reconcile(&mut apart.unpacked, &apart.draft, apart.owners, &lower, &mut |at, path| {
                    ids.get(at).map_or(Ok(Owner::default()), |id| below.owner(id, path))
                })?;
            let info = LayerInfo {
                parent,
                kind: LayerKind::Base,
                size: apart.unpacked.bytes,
                content,
                created_by: descriptor.digest.to_string(),
                inputs: Vec::new(),
                owners,
            };
            self.storage.commit_layer(apart.draft, &id, &info)?;
            lower.push(Root::open(&self.storage.layer_tree(&id))?);
            ids.push(id);
        }
        drop(lower);
        let meta = layers::meta(self.storage, &ids, &resolved.config)?;
        ids.push(meta);
        self.commit(image, resolved, ids, ingests)
    }

    /// Plain mode: one tree.
    fn tree(&self, places: &[Remote], image: Names, resolved: Resolved) -> Result<Image> {
        if let Some(id) = self.known_tree(&resolved)? {
            let descriptors = &resolved.manifest.layers[..self.count(&resolved)];
            self.fetcher(places, Form::Plain).fetch_all(descriptors, &vec![true; descriptors.len()], None)?;
            self.announce_flattening(&resolved.manifest.layers, descriptors.len());
            return self.commit(image, resolved, vec![id], Vec::new());
        }
        let draft = layers::new_tree(self.storage)?;
        let mut owners = TableWriter::new(&draft);
        let root = Root::open(&draft.path().join("tree"))?;
        root.forget_time()?;
        let Flattened { held, ingests, diff_ids } = self.flatten(places, &resolved, &root, &mut owners)?;
        let id = layers::base_name(&diff_ids, &resolved.config);
        layers::store_base(self.storage, draft, held, (&image.remote.to_string(), whole(owners)?), &id)?;
        self.commit(image, resolved, vec![id], ingests)
    }

    /// The tree of an image, if it is there from an earlier pull.
    fn known_tree(&self, resolved: &Resolved) -> Result<Option<LayerId>> {
        let diff_ids = resolved.config.diff_ids_of(resolved.manifest.layers.len())?;
        let Some(diff_ids) = diff_ids.filter(|_| !self.options.no_cache) else { return Ok(None) };
        let id = layers::base_name(&diff_ids[..self.count(resolved)], &resolved.config);
        Ok(Some(id).filter(|id| self.storage.has_layer(id)))
    }

    /// Layers that are taken.
    fn count(&self, resolved: &Resolved) -> usize {
        self.options.last_layer.unwrap_or(usize::MAX).min(resolved.manifest.layers.len())
    }

    fn commit(&self, names: Names, resolved: Resolved, layers: Vec<LayerId>, ingests: Vec<Ingest>) -> Result<Image> {
        for bytes in [&resolved.top.bytes, &resolved.manifest_bytes, &resolved.config_bytes] {
            self.storage.put_blob(bytes)?;
        }
        let mut image = Image::new(names.local.clone(), layers, resolved.config);
        image.source = Some(Source {
            reference: names.remote.canonical_remote(),
            top: resolved.top.digest,
            manifest: resolved.manifest_digest,
            config: resolved.manifest.config.digest,
            layers: resolved.manifest.layers,
        });
        self.storage.commit_image(&image, ingests)?;
        self.storage.trim_blobs(self.host.keep_blobs(), &[])?;
        Ok(image)
    }

    /// `pull REF FILE`: by way of storage, whose layers it uses. An image that was not there is removed afterwards.
    fn to_packed(&self, reference: &ImageRef, wanted: &Wanted, path: &Path) -> Result<()> {
        let _lock = self.storage.lock_image(reference)?;
        // Also one that can't be read: it is the user's.
        let was_here = !matches!(self.storage.image(reference), Ok(None));
        let image = self.to_storage(reference, wanted)?;
        let exported = export::export_images(self.host, self.options, self.storage, std::slice::from_ref(&image), path);
        if !was_here {
            self.storage.delete_image(reference)?;
        }
        exported
    }

    /// `pull REF DIR`: made beside its place, then moved there.
    fn to_directory(&self, reference: &ImageRef, directory: &Path) -> Result<()> {
        let shown = directory.display();
        let place = Destination::claim(directory, self.storage)?;
        let wanted = remote::wanted(self.host, self.options);
        let cache = (!self.options.no_cache).then_some(self.storage);
        let (places, resolved) = remote::find(self.remotes, reference, &wanted, cache)?;
        // A directory has no record.
        let draft = self.storage.draft()?;
        let Flattened { ingests, .. } =
            self.flatten(&places, &resolved, &place.root()?, &mut TableWriter::new(&draft))?;
        let image = Image::new(reference.clone(), Vec::new(), resolved.config.clone());
        self.storage.publish(ingests)?;
        self.storage.trim_blobs(self.host.keep_blobs(), &resolved.manifest.layers)?;
        for bytes in [&resolved.top.bytes, &resolved.manifest_bytes, &resolved.config_bytes] {
            self.storage.put_blob(bytes)?;
        }
        place.finish().context(|| format!("can't put the image at {shown}"))?;
        self.say_arch(&image);
        Ok(())
    }

    /// Downloads all layers, then applies them in order to one tree.
    fn flatten(
        &self,
        places: &[Remote],
        resolved: &Resolved,
        root: &Root,
        owners: &mut TableWriter,
    ) -> Result<Flattened> {
        let diff_ids = diff_ids(resolved)?;
        let all = &resolved.manifest.layers;
        let count = self.count(resolved);
        let here = vec![false; count];
        let fetched = self.fetcher(places, Form::Plain).fetch_all(&all[..count], &here, diff_ids.as_deref())?;
        self.announce_flattening(all, count);
        let room = Room::new();
        let mut held = Held::NOTHING;
        let (mut ingests, mut found) = (Vec::new(), Vec::new());
        for (i, (fetched, descriptor)) in fetched.into_iter().zip(all).enumerate() {
            let label = label(i, all.len(), descriptor);
            info!("{label}: extracting");
            let bytes = fetched.ok_or_else(|| Error::new(format!("{label}: not fetched")))?.bytes;
            let want = diff_ids.as_ref().map(|ids| ids[i]);
            let (unpacked, diff_id) = apply(bytes.reader()?, (root, Form::Plain), &label, want, owners, &room)?;
            found.push(diff_id);
            report(&label, &unpacked);
            held.add(&unpacked);
            ingests.extend(bytes.into_ingest());
        }
        held.add(&layers::add_meta(root, &resolved.config)?);
        Ok(Flattened { held, ingests, diff_ids: found })
    }

    fn fetcher<'b>(&'b self, places: &'b [Remote], form: Form) -> Fetcher<'b> {
        Fetcher { places, storage: self.storage, no_cache: self.options.no_cache, form, room: Room::new() }
    }

    fn announce_flattening(&self, all: &[Descriptor], count: usize) {
        info!("flattening image");
        for (i, descriptor) in all.iter().enumerate() {
            match i < count {
                true => info!("{}: listing", label(i, all.len(), descriptor)),
                false => info!("{}: skipping per --last-layer", label(i, all.len(), descriptor)),
            }
        }
        info!("validating tarball members");
        info!("resolving whiteouts");
    }
}

/// Layers in one tree.
struct Flattened {
    held: Held,
    /// The downloads.
    ingests: Vec<Ingest>,
    diff_ids: Vec<Digest>,
}

/// Sets a layer right by those below it, and ends the table of its owners.
pub fn reconcile(
    unpacked: &mut Unpacked,
    draft: &Draft,
    mut table: TableWriter,
    lower: &Stack,
    below: &mut dyn FnMut(usize, &[u8]) -> Result<Owner>,
) -> Result<(Option<u64>, Owners)> {
    let root = Root::open(&draft.path().join("tree"))?;
    let mut told = |path: &[u8], told| owners::write(&mut table, path, &told, below);
    let content = rootfs::reconcile_owned(unpacked, &root, lower, &mut told)?;
    if unpacked.root_described && !lower.is_empty() && table.is_empty() {
        // Root's, whosever it is below.
        table.write(format!("{}\n", Line::Is(b"", &Owner::default())).as_bytes()).context(|| "can't record owners")?;
    }
    Ok((content, Owners::Own(table.finish()?)))
}

/// The owners of a whole tree.
pub fn whole(table: TableWriter) -> Result<Owners> {
    Ok(if table.is_empty() { Owners::AsBelow } else { Owners::Whole(table.finish()?) })
}

fn report(label: &str, unpacked: &Unpacked) {
    if unpacked.ignored_devices > 0 {
        info!("{label}: ignored {} devices and/or FIFOs", unpacked.ignored_devices);
    }
}

/// Diff IDs, as many as layers; `None` for images of old.
fn diff_ids(resolved: &Resolved) -> Result<Option<Vec<Digest>>> {
    let ids = resolved.config.diff_ids_of(resolved.manifest.layers.len())?;
    if ids.is_none() {
        warning!("no metadata to load; using defaults");
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_operands() {
        let reference = ImageRef::parse("a:1").unwrap();
        let place = |word: &str, compat| match Place::of(Some(Path::new(word)), &reference, compat).unwrap() {
            Place::Storage(name) => format!("storage {name}"),
            Place::Packed(path) => format!("packed {}", path.display()),
            Place::Directory(path) => format!("directory {}", path.display()),
        };
        for compat in [Compat::None, Compat::V025, Compat::V040] {
            for dir in ["/x", "./x", "../x", ".", "x/", "a.sqfs/"] {
                assert_eq!(place(dir, compat), format!("directory {dir}"));
            }
            for file in ["x.sqfs", "./x.tar.gz", "oci:x", "docker-archive:x"] {
                assert_eq!(place(file, compat), format!("packed {file}"));
            }
        }
        for name in ["x", "x/y:2", "localhost:5000/x"] {
            assert_eq!(place(name, Compat::None), format!("storage {name}"));
            assert_eq!(place(name, Compat::V040), format!("storage {name}"));
            assert_eq!(place(name, Compat::V025), format!("directory {name}"));
        }
        assert_eq!(Place::of(None, &reference, Compat::V025).unwrap(), Place::Storage(reference.clone()));
        assert!(Place::of(Some(Path::new("X Y")), &reference, Compat::None).is_err());
    }
}
