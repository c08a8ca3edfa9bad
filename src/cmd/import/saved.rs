//! `import` of images that other programs saved: Docker archives (`docker save`, `podman save`), and OCI layouts, as a
//! directory or an archive. Their layers become layers of ours, as those of a registry do.
//!
//! Every digest that is told is checked: of documents and blobs by a layout, of what is in a layer by the
//! configuration. What a layout names may be no link (whoever made one meant something else to be read).

use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use super::Tally;
use crate::cmd::fetch::apply;
use crate::cmd::progress::{CountedReader, Progress};
use crate::cmd::pull::{reconcile, whole};
use crate::cmd::remote;
use crate::compress::stream::{Decoder, Proof};
use crate::container::ownership::Owner;
use crate::error::{Context, Error, Result, bail};
use crate::image::layers::{self, Held};
use crate::image::owners::Below;
use crate::log::{escape, info, warning};
use crate::oci::arch::Wanted;
use crate::oci::config::Config;
use crate::oci::digest::{Digest, Hashing};
use crate::oci::json::MAX_DOCUMENT;
use crate::oci::manifest::{Descriptor, Document, Index, Manifest, OCI_INDEX};
use crate::oci::saved::{self, DOCKER_DOCUMENT, LAYOUT_INDEX, LAYOUT_MARK, Saved, Wish};
use crate::rootfs::{self, Bundle, Form, Last, Room, Root, Stack};
use crate::storage::{Draft, LayerId, LayerInfo, LayerKind, Mode, Storage, TableWriter};

/// Indexes in one another (as with registries).
const MAX_DEPTH: usize = 4;

/// How an image was saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Docker,
    Oci,
}

/// What the PATH of `import` means: `docker-archive:FILE[:TAG]`, `oci:DIR[:TAG]` and `oci-archive:FILE[:TAG]` as skopeo
/// writes them, else a path alone.
pub struct Operand<'p> {
    pub path: PathBuf,
    pub format: Option<Format>,
    pub tag: Option<&'p str>,
}

impl Operand<'_> {
    pub fn parse(path: &Path) -> Operand<'_> {
        let plain = Operand { path: path.to_owned(), format: None, tag: None };
        let Some((word, rest)) = path.to_str().and_then(|text| text.split_once(':')) else { return plain };
        let format = match word {
            "docker-archive" => Format::Docker,
            "oci" | "oci-archive" => Format::Oci,
            _ => return plain,
        };
        // What is there under the whole name has no tag behind it.
        let exists = |path: &str| fs::symlink_metadata(path).is_ok();
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if !exists(rest) && !tag.is_empty() => (path, Some(tag)),
            _ => (rest, None),
        };
        Operand { path: PathBuf::from(path), format: Some(format), tag }
    }
}

/// An image in a bundle, not yet unpacked.
pub struct Found {
    pub config: Config,
    layers: Vec<Layer>,
}

/// A layer, and what is known of its bytes.
struct Layer {
    /// In the bundle.
    name: String,
    digest: Option<Digest>,
    size: Option<u64>,
    /// Whether it may be a link: `docker save` made such where two images share a layer.
    last: Last,
}

/// A file that may hold saved images, opened: `None` if it is something else. What is compressed is laid out in a draft,
/// which must live as long.
pub fn open_file(file: &mut File, storage: &Storage) -> Result<Option<(Bundle, Option<Draft>)>> {
    let first = Decoder::new(&mut *file, Proof::Crc).ok().and_then(|mut tar| rootfs::first_name(&mut tar));
    file.rewind()?;
    if !first.is_some_and(|name| saved::is_saved_name(&String::from_utf8_lossy(&name))) {
        return Ok(None);
    }
    let mut tar = Decoder::new(&mut *file, Proof::Crc)?;
    if tar.is_plain() {
        file.rewind()?;
        return Ok(Some((Bundle::of_tar(file.try_clone()?)?, None)));
    }
    let draft = storage.draft()?;
    let path = draft.path().join("archive");
    let mut plain = File::options().read(true).write(true).create_new(true).open(&path)?;
    rootfs::spool(&mut tar, &mut plain, &Root::open(draft.path())?)?;
    plain.rewind()?;
    Ok(Some((Bundle::of_tar(plain)?, Some(draft))))
}

/// All names that images have in the archive of `docker save` or `podman save`.
pub fn names(file: &mut File, storage: &Storage) -> Result<Vec<String>> {
    let Some((bundle, _draft)) = open_file(file, storage)? else { return Ok(Vec::new()) };
    let Some(document) = bundle.read(DOCKER_DOCUMENT, Last::Follow, MAX_DOCUMENT)? else { return Ok(Vec::new()) };
    let images = saved::parse(&document)?.unwrap_or_default();
    Ok(images.into_iter().flat_map(|image| image.tags).collect())
}

/// The image that is meant; `None` if the bundle holds no saved images.
pub fn find(bundle: &Bundle, format: Option<Format>, wish: Wish, wanted: &Wanted) -> Result<Option<Found>> {
    let read = |name| bundle.read(name, Last::Follow, MAX_DOCUMENT);
    let is_layout = read(LAYOUT_MARK)?.is_some();
    if format != Some(Format::Docker)
        && let Some(index) = read(LAYOUT_INDEX)?.filter(|_| is_layout)
    {
        return layout(bundle, &index, wish, wanted).map(Some);
    }
    if format != Some(Format::Oci)
        && let Some(document) = read(DOCKER_DOCUMENT)?
        && let Some(images) = saved::parse(&document)?
    {
        return docker(bundle, images, wish).map(Some);
    }
    Ok(None)
}

fn docker(bundle: &Bundle, images: Vec<Saved>, wish: Wish) -> Result<Found> {
    let names: Vec<Vec<&str>> = images.iter().map(|image| image.tags.iter().map(String::as_str).collect()).collect();
    let at = saved::pick(&names, wish)?;
    say(names[at].first().copied(), images.len());
    let image = &images[at];
    let Some(bytes) = bundle.read(&image.config, Last::Follow, MAX_DOCUMENT)? else {
        bail!("configuration {} is missing", escape(&image.config));
    };
    if saved::digest_of_name(&image.config).is_some_and(|want| want != Digest::of(&bytes)) {
        bail!("configuration {} differs from its digest", escape(&image.config));
    }
    let layer = |name: &String| Layer { name: name.clone(), digest: blob(name), size: None, last: Last::Follow };
    Ok(Found { config: Config::parse(&bytes)?, layers: image.layers.iter().map(layer).collect() })
}

/// The digest of a blob of a layout, which today's `docker save` writes, too. (Names elsewhere are no digests of bytes.)
fn blob(name: &str) -> Option<Digest> {
    name.starts_with("blobs/sha256/").then(|| saved::digest_of_name(name)).flatten()
}

fn layout(bundle: &Bundle, index: &[u8], wish: Wish, wanted: &Wanted) -> Result<Found> {
    let Document::Index(index) = Document::parse(index, Some(OCI_INDEX)).context(|| LAYOUT_INDEX)? else {
        bail!("{LAYOUT_INDEX} is not an index");
    };
    let names: Vec<Vec<&str>> = index.entries.iter().map(|entry| entry.name.as_deref().into_iter().collect()).collect();
    let at = saved::pick(&names, wish)?;
    let name = index.entries[at].name.clone();
    let images: std::collections::BTreeSet<_> = index.entries.iter().map(|entry| &entry.name).collect();
    say(name.as_deref(), images.len());
    // Those of one name are one image for several architectures.
    let mut index = Index { entries: index.entries.into_iter().filter(|entry| entry.name == name).collect() };
    for _ in 0..=MAX_DEPTH {
        let descriptor = match &index.entries[..] {
            // What is there alone is meant, whatever this machine is.
            [only] => only.descriptor.clone(),
            _ => remote::choose(&index, wanted)?.clone(),
        };
        match Document::parse(&checked(bundle, &descriptor)?, Some(&descriptor.media_type))? {
            Document::Index(inner) => index = inner,
            Document::Manifest(manifest) => return of_manifest(bundle, &manifest),
        }
    }
    Err(Error::new("indexes nested too deep"))
}

fn of_manifest(bundle: &Bundle, manifest: &Manifest) -> Result<Found> {
    let config = Config::parse(&checked(bundle, &manifest.config)?)?;
    let layer = |descriptor: &Descriptor| Layer {
        name: path_of(&descriptor.digest),
        digest: Some(descriptor.digest),
        size: Some(descriptor.size),
        last: Last::Keep,
    };
    Ok(Found { config, layers: manifest.layers.iter().map(layer).collect() })
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document of a layout, if it is what its descriptor says.
fn checked(bundle: &Bundle, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let name = path_of(&descriptor.digest);
    let Some(bytes) = bundle.read(&name, Last::Keep, MAX_DOCUMENT)? else { bail!("{name} is missing") };
    if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != descriptor.digest {
        bail!("{name} differs from its digest or size");
    }
    Ok(bytes)
}

fn say(name: Option<&str>, images: usize) {
    if let Some(name) = name {
        info!("image:        {}", escape(name));
    }
    if images > 1 {
        info!("images:       {images}; docker-archive:FILE:TAG, oci-archive:FILE:TAG or oci:DIR:TAG names another one");
    }
}

impl Found {
    /// Unpacks the layers; the image's layers in storage.
    pub fn store(&self, bundle: &Bundle, storage: &Storage) -> Result<(Vec<LayerId>, Tally)> {
        let diff_ids = self.config.diff_ids_of(self.layers.len())?;
        if diff_ids.is_none() {
            warning!("no metadata to load; using defaults");
        }
        let mut tally = Tally::default();
        let ids = match storage.mode() {
            Mode::Overlay => self.stack(bundle, storage, diff_ids.as_deref(), &mut tally)?,
            Mode::Plain => vec![self.tree(bundle, storage, diff_ids.as_deref(), &mut tally)?],
        };
        Ok((ids, tally))
    }

    fn stack(
        &self,
        bundle: &Bundle,
        storage: &Storage,
        diff_ids: Option<&[Digest]>,
        tally: &mut Tally,
    ) -> Result<Vec<LayerId>> {
        let mut ids: Vec<LayerId> = Vec::new();
        let mut lower = Stack::new(Vec::new()).remembering();
        let mut below = Below::new(storage);
        for (i, layer) in self.layers.iter().enumerate() {
            let label = self.label(i);
            let parent = ids.last().copied();
            let name = |diff_id: &Digest| LayerId::new(Digest::chain(parent.as_ref().map(LayerId::digest), diff_id));
            let known = diff_ids.map(|ids| name(&ids[i])).filter(|id| storage.has_layer(id));
            let id = match known {
                Some(id) => {
                    info!("{label}: using existing layer");
                    id
                }
                None => {
                    let draft = layers::new_tree(storage)?;
                    let root = Root::open(&draft.path().join("tree"))?;
                    root.forget_time()?;
                    let want = diff_ids.map(|ids| ids[i]);
                    let mut owners = TableWriter::new(&draft);
                    let place = (&root, Form::Overlay);
                    let (mut unpacked, diff_id, read) = layer.unpack(bundle, place, &label, want, &mut owners)?;
                    tally.add(Tally { read, entries: unpacked.entries, content: unpacked.bytes });
                    let (content, owners) = reconcile(&mut unpacked, &draft, owners, &lower, &mut |at, path| {
                        ids.get(at).map_or(Ok(Owner::default()), |id| below.owner(id, path))
                    })?;
                    let info = LayerInfo {
                        parent,
                        kind: LayerKind::Base,
                        size: unpacked.bytes,
                        content,
                        created_by: layer.name.clone(),
                        inputs: Vec::new(),
                        owners,
                    };
                    let id = name(&diff_id);
                    storage.commit_layer(draft, &id, &info)?;
                    id
                }
            };
            lower.push(Root::open(&storage.layer_tree(&id))?);
            ids.push(id);
        }
        drop(lower);
        ids.push(layers::meta(storage, &ids, &self.config)?);
        Ok(ids)
    }

    fn tree(
        &self,
        bundle: &Bundle,
        storage: &Storage,
        diff_ids: Option<&[Digest]>,
        tally: &mut Tally,
    ) -> Result<LayerId> {
        let known = diff_ids.map(|ids| layers::base_name(ids, &self.config)).filter(|id| storage.has_layer(id));
        if let Some(id) = known {
            (0..self.layers.len()).for_each(|i| info!("{}: using existing layer", self.label(i)));
            return Ok(id);
        }
        let draft = layers::new_tree(storage)?;
        let root = Root::open(&draft.path().join("tree"))?;
        root.forget_time()?;
        let mut held = Held::NOTHING;
        let mut owners = TableWriter::new(&draft);
        let mut found = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let want = diff_ids.map(|ids| ids[i]);
            let place = (&root, Form::Plain);
            let (unpacked, diff_id, read) = layer.unpack(bundle, place, &self.label(i), want, &mut owners)?;
            tally.add(Tally { read, entries: unpacked.entries, content: unpacked.bytes });
            held.add(&unpacked);
            found.push(diff_id);
        }
        held.add(&layers::add_meta(&root, &self.config)?);
        let id = layers::base_name(&found, &self.config);
        layers::store_base(storage, draft, held, ("import", whole(owners)?), &id)?;
        Ok(id)
    }

    fn label(&self, i: usize) -> String {
        let name = &self.layers[i].name;
        let short = saved::digest_of_name(name).map(|digest| digest.short());
        let short = short.unwrap_or_else(|| escape(name).chars().take(40).collect());
        format!("layer {}/{}: {short}", i + 1, self.layers.len())
    }
}

impl Layer {
    /// Unpacks it, checking all that is told of it; its diff ID, and how many bytes it has here.
    fn unpack(
        &self,
        bundle: &Bundle,
        (root, form): (&Root, Form),
        label: &str,
        want: Option<Digest>,
        owners: &mut TableWriter,
    ) -> Result<(rootfs::Unpacked, Digest, u64)> {
        info!("{label}: extracting");
        let part = bundle.open(&self.name, self.last).context(|| label.to_owned())?;
        let Some(part) = part else { bail!("{label}: {} is missing", escape(&self.name)) };
        let size = part.size;
        if self.size.is_some_and(|want| want != size) {
            bail!("{label}: has {size} bytes, not as many as its manifest says");
        }
        let progress = Progress::new("unpacking", Some(size));
        let mut hashed = Hashing::new(CountedReader { inner: part, part: progress.part(label, Some(size)) });
        let done = apply(&mut hashed, (root, form), label, want, owners, &Room::new());
        let rest = io::copy(&mut hashed, &mut io::sink());
        let (_, hasher) = hashed.into_parts();
        // Bad content may be the fault of bad bytes: that is the error to show.
        if self.digest.is_some_and(|want| rest.is_ok() && want != hasher.digest()) {
            bail!("{label}: content differs from its digest");
        }
        let (unpacked, diff_id) = done?;
        if unpacked.ignored_devices > 0 {
            info!("{label}: ignored {} devices and/or FIFOs", unpacked.ignored_devices);
        }
        Ok((unpacked, diff_id, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands() {
        let check = |text: &str, want: (&str, Option<Format>, Option<&str>)| {
            let got = Operand::parse(Path::new(text));
            assert_eq!((got.path.to_str().unwrap(), got.format, got.tag), want, "{text}");
        };
        check("a.tar", ("a.tar", None, None));
        check("a:b", ("a:b", None, None));
        check("docker-archive:a.tar", ("a.tar", Some(Format::Docker), None));
        check("docker-archive:/x/a.tar:b:1", ("/x/a.tar", Some(Format::Docker), Some("b:1")));
        check("oci:dir", ("dir", Some(Format::Oci), None));
        check("oci:dir:", ("dir:", Some(Format::Oci), None));
        check("oci-archive:a.tar:latest", ("a.tar", Some(Format::Oci), Some("latest")));
    }
}
