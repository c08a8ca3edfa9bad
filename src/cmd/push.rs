//! `push`: the image as one flattened layer (manual page, "Push"): owners root:root, no set-id bits. With `--layers`
//! the layers of its base stay as they are, and one layer of ours goes on top.
//!
//! The manifest goes last, so that a tag never names what is not there.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::base_layers::Base;
use super::compression;
use super::fetch::Fetcher;
use super::progress::Progress;
use super::push_layer::{self, Files, Packed, Plan};
use super::remote::{self, Named, Remote, Remotes};
use super::{Host, similar};
use crate::cli::{Format, Options};
use crate::compress::encoder::Encoding;
use crate::container;
use crate::container::ownership::Ledger;
use crate::error::{Context, Error, Result, bail};
use crate::image::owners::{self, Which};
use crate::image::{ch_layer, layers};
use crate::log;
use crate::log::{info, verbose, warning};
use crate::oci::config::Config;
use crate::oci::digest::Digest;
use crate::oci::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::oci::reference::ImageRef;
use crate::oci::size::total;
use crate::registry::Client;
use crate::registry::auth::Access as Permission;
use crate::registry::blob::Presence;
use crate::registry::client::Offer;
use crate::rootfs::{Form, PackOptions, Room, Root, Stack};
use crate::storage::{Access, Image, LayerId, LayerKind, Mode, Storage};

pub fn push(host: &Host, options: &Options, image: &str, destination: Option<&str>) -> Result<()> {
    let reference = ImageRef::parse(image)?;
    let target = destination.map(ImageRef::parse).transpose()?;
    let encoding = encoding(options)?;
    if encoding != Encoding::Gzip && options.format == Some(Format::Docker) {
        return Err(
            Error::usage("--format=docker has no type for layers compressed with zstd").hint("use --format=oci")
        );
    }
    host.check_storage_place()?;
    // Directories that a build left unreadable are no obstacle inside a user namespace; where there is none, most
    // images can be read all the same.
    if let Err(e) = container::enter() {
        verbose!("pushing without a user namespace: {e}");
    }
    let storage = host.storage(Access::Write)?;
    info!("pushing image:   {reference}");
    if let Some(target) = &target {
        info!("destination:     {target}");
    }
    let target = target.unwrap_or_else(|| reference.clone());
    // What is packed has a digest of its own, and a tag beside another one would not be set.
    if target.has_digest() {
        return Err(Error::new(format!("can't push to a digest: {target}"))
            .hint("push to a tag: ch-image push IMAGE_REF [HOST[:PORT]/]PATH:TAG"));
    }
    let pushed = match &options.image {
        Some(directory) => {
            info!("image path:      {}", directory.display());
            Pushed::directory(host, directory)?
        }
        None => {
            let image = storage.image(&reference)?.ok_or_else(|| {
                Error::new(format!("can't push: no image {reference}")).hint(similar::hint(&storage, &reference))
            })?;
            Pushed::image(&storage, image, options, &target)?
        }
    };
    if options.layers && pushed.base.is_none() {
        info!("--layers: no layers of a registry are known to be in this image: pushing it as one layer");
    }
    if options.ownership && pushed.ledger.is_empty() {
        warning!("--ownership: no owners are recorded in this image; build it with --force=notify");
    }
    let remotes = Remotes::new(options, Named::Image(&target))?;
    let Remote { client, .. } = remotes.of(&target)?;
    // A password is asked for before the long work, not after it.
    client.authorize(&target.repository(), Permission::Push)?;
    let packed = match pushed.has_layer_of_ours {
        true => Some(pushed.plan(&storage, options)?.carry_out(&client, &target.repository())?),
        false => None,
    };
    info!("preparing metadata");
    // Docker's format has no type for zstd.
    let usual = if pushed.base.is_some() || encoding != Encoding::Gzip { Format::Oci } else { Format::Docker };
    let format = options.format.unwrap_or(usual);
    let (config, manifest) = documents(host, &pushed, packed.as_ref(), encoding);
    let manifest = in_format(manifest, format)?;
    info!("starting upload");
    let upload = Upload {
        client: &client,
        storage: &storage,
        remotes: &remotes,
        target: &target,
        base: pushed.base.as_ref(),
        may_change: options.format.is_none(),
    };
    upload.all(packed.as_ref(), &config, &manifest).context(|| format!("can't push {}", target.canonical_remote()))?;
    info!("cleaning up");
    drop(packed);
    storage.trim_blobs(host.keep_blobs(), &[])?;
    info!("done");
    Ok(())
}

/// How our layer is compressed (`--compress`).
fn encoding(options: &Options) -> Result<Encoding> {
    let Some(text) = options.compress.as_deref() else { return Ok(Encoding::Gzip) };
    compression::encoding(text)?.ok_or_else(|| {
        Error::usage("--compress: a pushed layer is compressed").hint("gzip (the default) or zstd[:LEVEL]")
    })
}

/// What is pushed.
struct Pushed {
    /// Lowest first; empty for a directory.
    layers: Vec<LayerId>,
    files: Files,
    /// What a whole tree was given for running here, and is not pushed.
    given: Vec<PathBuf>,
    config: Config,
    /// Owners, if they are pushed.
    ledger: Ledger,
    /// Paths that the base's layers say something else of.
    marked: Vec<Vec<u8>>,
    /// Layers that stay as they are (`--layers`).
    base: Option<Base>,
    has_layer_of_ours: bool,
}

impl Pushed {
    fn image(storage: &Storage, image: Image, options: &Options, target: &ImageRef) -> Result<Pushed> {
        let base = match options.layers {
            true => Base::of(storage, &image, &remote::endpoint(target))?,
            false => None,
        };
        let mut has_layer_of_ours = base.is_none();
        let mut layers = Vec::new();
        for id in &image.layers {
            match storage.layer_info(id)?.kind {
                // Mount points and the like are for running here; whoever pulls the image gets them anew.
                LayerKind::Meta => continue,
                LayerKind::Step => has_layer_of_ours = true,
                LayerKind::Base | LayerKind::Tree | LayerKind::Whole => {}
            }
            layers.push(*id);
        }
        if layers.is_empty() {
            layers.clone_from(&image.layers);
        }
        let (mut ledger, mut marked) = (Ledger::new(), Vec::new());
        if options.ownership {
            ledger = owners::of(storage, &image.layers, Which::All)?.unwrap_or_default();
            if let Some(base) = &base {
                let theirs = owners::of(storage, &image.layers[..base.stored], Which::All)?;
                marked = owners::differences(&ledger, &theirs.unwrap_or_default());
            }
        }
        let dirs = storage.layer_dirs(&layers)?;
        // Otherwise it has a layer of its own, or the base is pushed as it was pulled.
        let given = match storage.mode() {
            Mode::Overlay if layers.len() > 1 => Vec::new(),
            Mode::Overlay | Mode::Plain => ch_layer::given(&Stack::of(&dirs)?)?,
        };
        let files = Files::Layers(dirs);
        Ok(Pushed { layers, files, given, config: image.config, ledger, marked, base, has_layer_of_ours })
    }

    fn directory(host: &Host, directory: &Path) -> Result<Pushed> {
        // Opened once: it may belong to somebody else, who could exchange it for a link to what is not theirs.
        let root = Root::open(directory)?;
        let config = directory_config(host, directory, &root)?;
        let given = ch_layer::given(&Stack::new(vec![root.try_clone()?]))?;
        let (files, ledger, marked) = (Files::Directory(root), Ledger::new(), Vec::new());
        Ok(Pushed { layers: Vec::new(), files, given, config, ledger, marked, base: None, has_layer_of_ours: true })
    }

    /// How the layer of ours is made.
    fn plan<'a>(&'a self, storage: &'a Storage, options: &Options) -> Result<Plan<'a>> {
        let ledger = Some(&self.ledger).filter(|_| options.ownership);
        let above = self.base.as_ref().map_or(0, |base| base.stored);
        let number = self.base.as_ref().map_or(0, |base| base.layers.len()) + 1;
        let owners = ledger.map(owners::for_archive).unwrap_or_default();
        let (exclude, marked) = (self.given.clone(), self.marked.clone());
        let pack = PackOptions { clamp_mtime: source_date_epoch()?, exclude, owners, marked, above };
        let encoding = encoding(options)?;
        let key = match self.layers.is_empty() || options.no_cache {
            true => None,
            false => push_layer::key(storage, &self.layers, ledger.map(Ledger::to_string), &pack, encoding),
        };
        Ok(Plan { storage, files: &self.files, options: pack, encoding, number, key })
    }
}

/// Configuration of an unpacked image.
fn directory_config(host: &Host, directory: &Path, root: &Root) -> Result<Config> {
    let shown = directory.display();
    if !layers::looks_like_image(root)? {
        return Err(Error::new(format!("can't push: {shown} does not appear to be an image"))
            .hint("an image directory has bin, dev and usr"));
    }
    let metadata = root.read(Path::new(ch_layer::METADATA), 1 << 20)?;
    let mut config = match metadata {
        Some(bytes) => ch_layer::restore(&bytes).context(|| format!("can't push {shown}"))?,
        None => Config::default(),
    };
    if config.arch().is_none() {
        config.set_arch(host.arch());
    }
    Ok(config)
}

/// `$SOURCE_DATE_EPOCH`, seconds since 1970 (reproducible-builds.org).
pub(super) fn source_date_epoch() -> Result<Option<i64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => match text.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::new(format!("SOURCE_DATE_EPOCH: not a number of seconds: {text:?}"))),
        },
    }
}

/// A configuration as others read it.
pub(super) fn portable(host: &Host, config: &Config) -> Config {
    let mut config = config.clone();
    if config.arch().is_none() {
        config.set_arch(host.arch());
    }
    config.set("os", "linux".into());
    // Some readers (Charliecloud 0.31) insist on the key, even if there is nothing in it.
    if config.get("config").is_none_or(serde_json::Value::is_null) {
        config.set("config", json!({}));
    }
    config
}

/// Configuration and manifest, with OCI's types.
fn documents(host: &Host, pushed: &Pushed, packed: Option<&Packed>, encoding: Encoding) -> (Vec<u8>, Manifest) {
    let mut config = portable(host, &pushed.config);
    let descriptor = |media_type: &str, digest, size| Descriptor { media_type: media_type.to_owned(), digest, size };
    let (mut layers, mut diff_ids, mut history) = match &pushed.base {
        Some(base) => (base.layers.clone(), base.diff_ids.clone(), base.history.clone()),
        None => (Vec::new(), Vec::new(), Vec::new()),
    };
    // History has an entry for each layer, or it says nothing.
    let adds_up = pushed.base.is_none() || !history.is_empty();
    if let Some(packed) = packed {
        let media_type = match encoding {
            Encoding::Gzip => OCI_LAYER_GZIP,
            Encoding::Zstd(_) => OCI_LAYER_ZSTD,
        };
        layers.push(descriptor(media_type, packed.blob.digest, packed.blob.size));
        diff_ids.push(packed.blob.diff_id);
        // One layer, so one entry, however many steps it was made in.
        history.push(json!({"created_by": "ch-image push", "comment": "flattened"}));
    }
    config.set_diff_ids(&diff_ids);
    match adds_up {
        true => config.set_history(history),
        false => config.set("history", serde_json::Value::Null),
    }
    let bytes = config.to_json();
    let config = descriptor(OCI_CONFIG, Digest::of(&bytes), bytes.len() as u64);
    (bytes, Manifest { media_type: OCI_MANIFEST.to_owned(), config, layers })
}

/// A manifest with OCI's types as one of this format: the same blobs by other names.
fn in_format(mut manifest: Manifest, format: Format) -> Result<Manifest> {
    if format == Format::Oci {
        return Ok(manifest);
    }
    manifest.media_type = DOCKER_MANIFEST.to_owned();
    manifest.config.media_type = DOCKER_CONFIG.to_owned();
    for (i, layer) in manifest.layers.iter_mut().enumerate() {
        layer.media_type = match layer.media_type.as_str() {
            OCI_LAYER_GZIP => DOCKER_LAYER_GZIP.to_owned(),
            "application/vnd.oci.image.layer.v1.tar" => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
            other => {
                let e = format!("--format=docker: it has no type for layer {}, which is {}", i + 1, log::escape(other));
                return Err(Error::new(e).hint("use --format=oci"));
            }
        };
    }
    Ok(manifest)
}

/// The same with OCI's types, as a flat push has it.
fn as_oci(manifest: &Manifest) -> Manifest {
    let typed = |d: &Descriptor, media_type: &str| Descriptor { media_type: media_type.to_owned(), ..d.clone() };
    Manifest {
        media_type: OCI_MANIFEST.to_owned(),
        config: typed(&manifest.config, OCI_CONFIG),
        layers: manifest.layers.iter().map(|layer| typed(layer, OCI_LAYER_GZIP)).collect(),
    }
}

struct Upload<'a> {
    client: &'a Client,
    storage: &'a Storage,
    /// To where the base came from, too.
    remotes: &'a Remotes<'a>,
    target: &'a ImageRef,
    base: Option<&'a Base>,
    /// Whether another format will do where the registry does not take the first.
    may_change: bool,
}

impl Upload<'_> {
    fn all(&self, packed: Option<&Packed>, config: &[u8], manifest: &Manifest) -> Result<()> {
        let n = manifest.layers.len();
        let all = total(manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.size));
        let progress = Progress::new("uploading", Some(all));
        for (i, layer) in manifest.layers.iter().enumerate() {
            let what = format!("layer {}/{n}", i + 1);
            let ours = packed.filter(|_| i + 1 == n);
            if let Some(how) = ours.and_then(Packed::is_there) {
                let short = layer.digest.short();
                progress.part(&format!("{what}: {short}"), Some(layer.size)).begin_at(layer.size);
                info!("{what}: {short}: checking if already in repository");
                info!("{what}: {short}: {how}");
                continue;
            }
            self.blob(&progress, &what, layer, ours.is_none(), &mut || match ours {
                Some(packed) => packed.open(),
                None => self.stored(layer),
            })?;
        }
        self.blob(&progress, "config", &manifest.config, false, &mut || {
            Ok(Box::new(io::Cursor::new(config.to_vec())) as Box<dyn Read>)
        })?;
        drop(progress);
        info!("manifest: uploading");
        let (repository, version) = (self.target.repository(), self.target.version());
        let offer = |m: &Manifest| self.client.offer_manifest(&repository, &version, &m.media_type, &m.to_json());
        let refused = match offer(manifest)? {
            Offer::Taken(_) => return Ok(()),
            Offer::Unfit(error) => error,
        };
        if manifest.media_type == OCI_MANIFEST {
            return Err(refused.hint("the registry may take another kind of manifest: --format=docker"));
        }
        if !self.may_change {
            return Err(refused.hint("the registry may take another kind of manifest: --format=oci"));
        }
        verbose!("{refused}");
        info!("manifest: not taken in Docker's format, uploading in OCI's");
        let manifest = as_oci(manifest);
        self.client.put_manifest(&repository, &version, &manifest.media_type, &manifest.to_json()).map(drop)
    }

    /// A layer of the base as it was downloaded. If it has not been kept (`$CH_IMAGE_BLOBS`), it is downloaded again.
    fn stored(&self, layer: &Descriptor) -> Result<Box<dyn Read>> {
        if let Some(file) = self.storage.blob(&layer.digest, layer.size) {
            return Ok(Box::new(file));
        }
        let gone = || format!("blob {} of the base image is no longer in storage", layer.digest);
        let base = self.base.ok_or_else(|| Error::new(gone()))?;
        let places = [self.remotes.of(&base.reference).context(gone)?];
        let fetcher =
            Fetcher { places: &places, storage: self.storage, no_cache: false, form: Form::Plain, room: Room::new() };
        let fetched = fetcher.fetch_all(std::slice::from_ref(layer), &[false], None).context(gone)?;
        let bytes =
            fetched.into_iter().flatten().next().map(|fetched| fetched.bytes).ok_or_else(|| Error::new(gone()))?;
        let reader = bytes.reader()?;
        self.storage.publish(bytes.into_ingest().into_iter().collect())?;
        Ok(reader)
    }

    fn blob(
        &self,
        progress: &Progress,
        what: &str,
        descriptor: &Descriptor,
        is_base: bool,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
    ) -> Result<()> {
        let short = descriptor.digest.short();
        let repository = self.target.repository();
        let mut part = progress.part(&format!("{what}: {short}"), Some(descriptor.size));
        info!("{what}: {short}: checking if already in repository");
        if self.client.has_blob(&repository, &descriptor.digest)? {
            info!("{what}: {short}: already present");
            part.begin_at(descriptor.size);
            return Ok(());
        }
        // Within a registry a blob need not travel.
        if let Some(base) =
            self.base.filter(|base| is_base && remote::endpoint(&base.reference) == *self.client.endpoint())
            && base.reference.repository() != repository
            && self.client.mount_blob(&repository, &descriptor.digest, &base.reference.repository())
        {
            info!("{what}: {short}: mounted from {}", base.reference.repository());
            part.begin_at(descriptor.size);
            return Ok(());
        }
        info!("{what}: {short}: not present, uploading");
        let part = std::cell::RefCell::new(part);
        let sent = |n| part.borrow_mut().set(n);
        self.client.upload_blob(&repository, &descriptor.digest, descriptor.size, open, &sent)?;
        // A registry that says "created" and has nothing is worth one question. If that is not answered, "created" and
        // the digest that went with it count.
        match self.client.look_for_blob(&repository, &descriptor.digest)? {
            Presence::Here | Presence::Untold => Ok(()),
            Presence::Absent => bail!("{what}: {short}: the registry took the upload but does not have it"),
        }
    }
}
