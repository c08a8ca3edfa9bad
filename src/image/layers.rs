//! Layers and trees as commands make them: the metadata layer, whole trees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::owners::{self, Which};
use super::{ch_layer, view, whole};
use crate::container;
use crate::container::MAX_LAYERS;
use crate::error::{Context, Error, Result};
use crate::log::{verbose, warning};
use crate::oci::config::Config;
use crate::oci::digest::Digest;
use crate::rootfs::{self, Form, Last, Limits, PackOptions, Root, Stack, Unpacked};
use crate::storage::{self, Draft, Image, LayerId, LayerInfo, LayerKind, Mode, Owners, Storage};

/// The layers' trees, lowest first.
pub fn trees(storage: &Storage, ids: &[LayerId]) -> Vec<PathBuf> {
    ids.iter().map(|id| storage.layer_tree(id)).collect()
}

/// The tree of an image that has one to itself: those that `ch-run -w` writes into, and imported directories.
pub fn own_tree(storage: &Storage, ids: &[LayerId]) -> Option<LayerId> {
    let [id] = ids else { return None };
    storage.layer_info(id).is_ok_and(|info| info.kind == LayerKind::Tree).then_some(*id)
}

/// The directory that holds all that the image shows. `None` in overlay mode: its layers have to be mounted.
pub fn whole(storage: &Storage, ids: &[LayerId]) -> Option<LayerId> {
    own_tree(storage, ids).or_else(|| storage.whole_tree(ids))
}

/// Copies an image to a tree of its own.
pub fn flatten(storage: &Storage, image: &Image) -> Result<LayerId> {
    let draft = new_tree(storage)?;
    let owners = owners::whole(&draft, owners::of(storage, &image.layers, Which::All)?)?;
    let to = draft.path().join("tree");
    let failed = || format!("can't copy image {}", image.reference);
    let size = if storage.mode() == Mode::Plain {
        whole::copy(storage, &image.layers, &draft).context(failed)?
    } else if image.layers.len() > MAX_LAYERS {
        repack(trees(storage, &image.layers), &to).context(failed)?
    } else {
        let view = view(storage, &image.layers)?;
        rootfs::copy_tree(view.path(), &to, None).context(failed)?.bytes
    };
    // What it holds need not be found out: it is about to change.
    store_tree(storage, draft, Held { size, content: Some(0) }, "ch-run -w", owners)
}

/// Copies the merged view of more layers than the kernel can mount, by way of an archive. Bytes of its files.
fn repack(trees: Vec<PathBuf>, to: &Path) -> Result<u64> {
    let root = Root::open(to)?;
    let (mut reader, mut writer) = io::pipe().context(|| "can't make a pipe")?;
    thread::scope(|scope| {
        let packer = scope.spawn(move || {
            let options = PackOptions::default();
            rootfs::pack(&Stack::open(&trees)?, &mut writer, &options).map(drop)
        });
        let unpacked = rootfs::unpack(&mut reader, &root, Form::Plain, "image", &Limits::none());
        // What follows the end of the archive.
        if unpacked.is_ok() {
            let _ = io::copy(&mut reader, &mut io::sink());
        }
        drop(reader);
        let packed = packer.join().unwrap_or_else(|_| Err(Error::new("the thread that packs has ended early")));
        // If either failed, the other has lost its pipe.
        let unpacked = unpacked?;
        packed.map(|()| unpacked.bytes)
    })
}

/// An image as layers that never change, to build on. Of one that is written to that is a copy of its tree as it is now,
/// which serves later builds as long as nothing more is written.
pub fn frozen(storage: &Storage, image: Image) -> Result<Image> {
    let Some(id) = own_tree(storage, &image.layers) else { return Ok(image) };
    // Directories that the user may not enter are looked into, too.
    match storage.mode() {
        Mode::Overlay => container::enter()?,
        Mode::Plain => whole::see_all(),
    }
    let stamp = storage.tree_stamp(&id);
    let name = |more: &str| LayerId::new(Digest::of(format!("frozen 1\n{id}\n{stamp}{more}").as_bytes()));
    let mut frozen = name("");
    if storage.has_layer(&frozen) {
        storage.touch_layer(&frozen);
        return Ok(Image { layers: vec![frozen], ..image });
    }
    verbose!("copying image {}, which ch-run writes into", image.reference);
    let draft = new_tree(storage)?;
    let tree = draft.path().join("tree");
    rootfs::copy_tree(&storage.layer_tree(&id), &tree, None)
        .context(|| format!("can't copy image {}", image.reference))?;
    if storage.tree_stamp(&id) != stamp {
        warning!("image {} is being written to: taken as it was found", image.reference);
        frozen = name(&format!("\n{}", draft.path().display()));
    }
    let owners = owners::whole(&draft, owners::of(storage, &[id], Which::All)?)?;
    let info = LayerInfo {
        parent: None,
        kind: LayerKind::Step,
        size: storage::seal(&tree)?,
        content: None,
        created_by: format!("ch-run -w {}", image.reference),
        inputs: Vec::new(),
        owners,
    };
    storage.commit_layer(draft, &frozen, &info)?;
    Ok(Image { layers: vec![frozen], ..image })
}

/// A draft with an empty directory `tree`.
pub fn new_tree(storage: &Storage) -> Result<Draft> {
    let draft = storage.draft()?;
    let tree = draft.path().join("tree");
    fs::create_dir(&tree).context(|| format!("can't make {}", tree.display()))?;
    Ok(draft)
}

/// What the layer of an image with this configuration is called that lies on top of `below`.
pub fn meta_name(below: Option<LayerId>, config: &Config) -> LayerId {
    let key = format!("meta 1\n{}\n{}", below.map_or(String::new(), |p| p.to_string()), config.to_value());
    LayerId::new(Digest::of(key.as_bytes()))
}

/// The lowest layer of an image in plain mode: its layers unpacked one over the other, and its configuration. It is called
/// as the topmost layer of the same image in overlay mode, so that the steps on it are called the same, too.
pub fn store_base(
    storage: &Storage,
    draft: Draft,
    held: Held,
    (made_by, owners): (&str, Owners),
    id: &LayerId,
) -> Result<()> {
    let info = LayerInfo {
        parent: None,
        kind: LayerKind::Base,
        size: held.size,
        content: held.content,
        created_by: made_by.to_owned(),
        inputs: Vec::new(),
        owners,
    };
    storage.commit_layer(draft, id, &info)
}

/// What layers of a registry are called, the lowest first: each by those below it and its own diff ID.
pub fn chain(diff_ids: &[Digest]) -> Vec<LayerId> {
    let mut below: Option<Digest> = None;
    let name = |diff_id: &Digest| LayerId::new(*below.insert(Digest::chain(below.as_ref(), diff_id)));
    diff_ids.iter().map(name).collect()
}

/// What all of them are called as one layer, with the image's configuration.
pub fn base_name(diff_ids: &[Digest], config: &Config) -> LayerId {
    meta_name(chain(diff_ids).last().copied(), config)
}

/// The small top layer that an image has for its configuration: made, or found.
pub fn meta(storage: &Storage, below: &[LayerId], config: &Config) -> Result<LayerId> {
    let parent = below.last().copied();
    let id = meta_name(parent, config);
    if storage.has_layer(&id) {
        return Ok(id);
    }
    let stack = Stack::of(&storage.layer_dirs(below)?)?.remembering();
    // What cannot be looked up (a loop of links) counts as there: it is left alone.
    let archive =
        ch_layer::archive(config, &|path| stack.lookup(path, Last::Keep).map_or(true, |found| found.is_some()))?;
    let draft = new_tree(storage)?;
    let root = Root::open(&draft.path().join("tree"))?;
    let mut unpacked = rootfs::unpack(&mut &archive[..], &root, Form::Overlay, "metadata", &Limits::none())?;
    let content = rootfs::reconcile(&mut unpacked, &root, &stack)?;
    let info = LayerInfo {
        parent,
        kind: LayerKind::Meta,
        size: unpacked.bytes,
        content,
        created_by: "metadata".into(),
        inputs: Vec::new(),
        owners: Owners::AsBelow,
    };
    storage.commit_layer(draft, &id, &info)?;
    Ok(id)
}

/// The same for a whole tree.
pub fn add_meta(root: &Root, config: &Config) -> Result<Unpacked> {
    let archive = ch_layer::archive(config, &|path| root.stat(path, Last::Keep).map_or(true, |found| found.is_some()))?;
    rootfs::unpack(&mut &archive[..], root, Form::Plain, "metadata", &Limits::none())
}

/// What a whole tree holds, for its record: see [`LayerInfo`].
#[derive(Clone, Copy)]
pub struct Held {
    pub size: u64,
    pub content: Option<u64>,
}

impl Held {
    pub const NOTHING: Held = Held { size: 0, content: Some(0) };

    /// An archive was unpacked into it, too.
    pub fn add(&mut self, unpacked: &Unpacked) {
        self.size = self.size.saturating_add(unpacked.bytes);
        self.content = self.content.zip(unpacked.content).map(|(had, new)| had.wrapping_add(new));
    }
}

/// Names a whole tree that may be written to. Each gets a name of its own: such trees are not shared.
pub fn store_tree(storage: &Storage, draft: Draft, held: Held, made_by: &str, owners: Owners) -> Result<LayerId> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = LayerId::new(Digest::of(format!("tree {now} {} {n}", std::process::id()).as_bytes()));
    let info = LayerInfo {
        parent: None,
        kind: LayerKind::Tree,
        size: held.size,
        content: held.content,
        created_by: made_by.to_owned(),
        inputs: Vec::new(),
        owners,
    };
    storage.commit_layer(draft, &id, &info)?;
    Ok(id)
}

/// Whether a directory has what the original wants of an image: `bin`, `dev`, `usr`.
pub fn looks_like_image(dir: &Root) -> Result<bool> {
    for name in ["bin", "dev", "usr"] {
        if dir.stat(Path::new(name), Last::Keep)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
