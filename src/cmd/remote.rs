//! Which registry holds an image, and which document of it is meant (architecture)?

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Host;
use crate::cli::Options;
use crate::dockerfile::plan;
use crate::error::{Error, Result, bail};
use crate::log::{info, verbose, warning};
use crate::oci::arch::{Arch, Wanted};
use crate::oci::config::Config;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Document, Index, Manifest};
use crate::oci::reference::ImageRef;
use crate::registry::auth::First;
use crate::registry::credentials::{Credentials, Known};
use crate::registry::http::Timeouts;
use crate::registry::mirrors::{Mirrors, Place};
use crate::registry::retry::Policy;
use crate::registry::settings::Settings;
use crate::registry::{self, Accept, Client, Endpoint, Fetched};
use crate::storage::Storage;

/// What `--arch` asks for.
pub fn wanted(host: &Host, options: &Options) -> Wanted {
    match options.arch.as_deref() {
        Some("yolo") => Wanted::Yolo,
        None | Some("host") => Wanted::Arch(host.arch().clone()),
        Some(name) => Wanted::Arch(Arch::new(name)),
    }
}

/// Who says which registries are talked to. What is meant for one (a password, `--tls-no-verify`) is for those that the
/// user names, not for those that an image or storage brings in.
#[derive(Clone, Copy)]
pub enum Named<'r> {
    /// The command line names the image.
    Image(&'r ImageRef),
    /// A Dockerfile does; the command line names only what is made of it.
    Dockerfile { tag: &'r ImageRef, images: &'r [plan::Named] },
    /// Storage does: an image that came from there.
    Storage,
}

/// Which registries what is for.
struct Scopes {
    /// The name and password of the environment or standard input.
    login: Vec<Endpoint>,
    /// Why others don't get them.
    elsewhere: &'static str,
    /// `--tls-no-verify`
    unverified: Vec<Endpoint>,
}

impl Named<'_> {
    fn scopes(self, options: &Options) -> Result<Scopes> {
        let (tag, images) = match self {
            Named::Image(reference) => {
                let only = vec![endpoint(reference)];
                let elsewhere = "CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD are not used for a registry that the command \
                                 line does not name";
                return Ok(Scopes { login: only.clone(), elsewhere, unverified: only });
            }
            Named::Storage => {
                let elsewhere =
                    "fsck names no registry, so what is meant for one is not used; ch-image pull NAME uses it";
                return Ok(Scopes { login: Vec::new(), elsewhere, unverified: Vec::new() });
            }
            Named::Dockerfile { tag, images } => (tag, images),
        };
        let mut bases = Vec::new();
        let mut unverified: Vec<Endpoint> = tag.host().map(|_| endpoint(tag)).into_iter().collect();
        for image in images {
            let registry = endpoint(&ImageRef::parse_strict(&image.name)?);
            if image.keyword == "FROM" && !bases.contains(&registry) {
                bases.push(registry.clone());
            }
            unverified.push(registry);
        }
        let (login, elsewhere) = match (tag.host(), options.auth, &bases[..]) {
            (Some(_), ..) => (
                vec![endpoint(tag)],
                "CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD are not used for another registry than that of the tag",
            ),
            (None, false, _) => (
                Vec::new(),
                "CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD are not used for a registry that only the Dockerfile names, \
                 unless you say --auth",
            ),
            (None, true, [only]) => (
                vec![only.clone()],
                "CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD are not used for a registry that no FROM of the Dockerfile names",
            ),
            // One password is not for several.
            (None, true, _) => (
                Vec::new(),
                "CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD are not used where FROM names more than one registry",
            ),
        };
        Ok(Scopes { login, elsewhere, unverified })
    }
}

/// Connections of this process, one client a registry.
pub struct Remotes<'a> {
    options: &'a Options,
    settings: Settings,
    mirrors: Mirrors,
    credentials: Arc<dyn Credentials>,
    /// The registries for which alone `--tls-no-verify` is meant.
    unverified: Vec<Endpoint>,
    /// How much is tried with registries.
    policy: Policy,
    timeouts: Timeouts,
    clients: std::sync::Mutex<Vec<(Role, Arc<Client>)>>,
}

/// Whether there is somebody else to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Registry,
    /// Comes before others, so little patience is lost on it.
    Mirror,
}

impl<'a> Remotes<'a> {
    pub fn new(options: &'a Options, named: Named) -> Result<Remotes<'a>> {
        let Scopes { login, elsewhere, unverified } = named.scopes(options)?;
        if options.tls_no_verify && matches!(named, Named::Storage) {
            warning!("--tls-no-verify: not used: {elsewhere}");
        }
        let mut settings = Settings::from_vars(&|name| std::env::var(name).ok())?;
        settings.trust.extra = options.ca.clone();
        let credentials = super::secrets::credentials(options, login, elsewhere, &settings)?;
        let mirrors = Mirrors::load(settings.mirrors.as_deref())?;
        Ok(Remotes {
            options,
            settings,
            mirrors,
            credentials,
            unverified,
            policy: Policy::default(),
            timeouts: Timeouts::default(),
            clients: Default::default(),
        })
    }

    /// For what can do without an answer: nothing is tried twice, nor waited for long.
    pub fn impatient(self) -> Remotes<'a> {
        let few = Duration::from_secs(5);
        let timeouts = Timeouts { connect: few, answer: few, stall: few, ..self.timeouts };
        Remotes { policy: Policy { retries: 0, ..self.policy }, timeouts, ..self }
    }

    /// The registry of an image.
    pub fn of(&self, reference: &ImageRef) -> Result<Remote> {
        Ok(Remote { client: self.client(endpoint(reference), Role::Registry)?, repository: reference.repository() })
    }

    /// Asks where the image may be until somebody has it: its mirrors in their order, then its registry, whose word is
    /// the last. Also says who else could be asked, should it fail later.
    pub fn first<T>(
        &self,
        reference: &ImageRef,
        mut ask: impl FnMut(&Remote) -> Result<Option<T>>,
    ) -> Result<Option<(Vec<Remote>, T)>> {
        let mut mirrors = self.mirrors.lookup(&endpoint(reference), &reference.repository());
        mirrors.pop();
        let place = |p: Place| Ok(Remote { client: self.client(p.endpoint, Role::Mirror)?, repository: p.repository });
        let mut places = mirrors.into_iter().map(place).collect::<Result<VecDeque<_>>>()?;
        places.push_back(self.of(reference)?);
        while places.len() > 1
            && let Some(mirror) = places.front()
        {
            match ask(mirror) {
                Ok(Some(answer)) => {
                    verbose!("using mirror {mirror}");
                    return Ok(Some((places.into(), answer)));
                }
                Ok(None) => verbose!("mirror {mirror}: not there"),
                Err(e) => verbose!("mirror {mirror}: {e}"),
            }
            places.pop_front();
        }
        let answer = places.front().map(ask).transpose()?.flatten();
        Ok(answer.map(|answer| (places.into(), answer)))
    }

    fn client(&self, endpoint: Endpoint, role: Role) -> Result<Arc<Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, client)) = clients.iter().find(|(r, c)| *r == role && *c.endpoint() == endpoint) {
            return Ok(client.clone());
        }
        let is_named = self.unverified.contains(&endpoint);
        let options = registry::Options {
            tls_verify: !(self.options.tls_no_verify && is_named),
            settings: self.settings.clone(),
            first: if self.options.auth { First::Login } else { First::Anonymous },
            policy: match role {
                Role::Registry => self.policy.clone(),
                Role::Mirror => Policy { retries: self.policy.retries.min(1), ..self.policy.clone() },
            },
            timeouts: self.timeouts.clone(),
            ..registry::Options::default()
        };
        let credentials: Arc<dyn Credentials> = match role {
            Role::Registry => self.credentials.clone(),
            // A person who is asked would take it for the registry.
            Role::Mirror => Arc::new(Known(self.credentials.clone())),
        };
        let client = Arc::new(Client::new(&endpoint, options, credentials)?);
        clients.push((role, client.clone()));
        Ok(client)
    }
}

/// A repository at a registry.
pub struct Remote {
    pub client: Arc<Client>,
    pub repository: String,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.client.endpoint(), self.repository)
    }
}

pub fn endpoint(reference: &ImageRef) -> Endpoint {
    let (host, port) = reference.registry();
    Endpoint::new(&host, port)
}

/// An image of a registry: its manifest and configuration, verified.
pub struct Resolved {
    /// What the tag named, and its bytes.
    pub top: Fetched,
    pub manifest: Manifest,
    pub manifest_bytes: Vec<u8>,
    pub manifest_digest: Digest,
    pub config: Config,
    pub config_bytes: Vec<u8>,
}

pub fn not_in_registry(client: &Client, reference: &ImageRef) -> Error {
    let name = reference.canonical_remote();
    match client.wants_login(&reference.repository()) {
        false => Error::new(format!("not in registry: {name}")),
        true => Error::new(format!("login required: {name}: the registry answered 401 Unauthorized"))
            .hint(format!("{}; some registries also answer this when there is no such image", client.advice())),
    }
}

/// An index names a manifest that cannot be had.
fn lost(client: &Client, reference: &ImageRef, digest: &Digest) -> Error {
    if client.wants_login(&reference.repository()) {
        return not_in_registry(client, reference);
    }
    let name = reference.canonical_remote();
    Error::new(format!("{name}: its index names manifest {digest}, which the registry does not have"))
        .hint("it was deleted there, or never pushed; whoever owns the image can push it again")
}

/// Finds the image where it can be had first: at a mirror or at its registry. Whoever serves it, digests are checked.
/// Also says who else may have its layers.
pub fn find(
    remotes: &Remotes,
    reference: &ImageRef,
    wanted: &Wanted,
    storage: Option<&Storage>,
) -> Result<(Vec<Remote>, Resolved)> {
    let found = remotes.first(reference, |remote| resolve(remote, reference, wanted, storage).map(Some))?;
    found.ok_or_else(|| Error::new(format!("{reference}: no registry")))
}

/// Finds the image for the wanted architecture. Documents that are in storage already are taken from there, except
/// for the tag itself.
fn resolve(remote: &Remote, reference: &ImageRef, wanted: &Wanted, storage: Option<&Storage>) -> Result<Resolved> {
    let Remote { client, repository } = remote;
    let version = reference.version();
    let accept = if *wanted == Wanted::Yolo { Accept::Image } else { Accept::Any };
    if *wanted != Wanted::Yolo {
        info!("manifest list: downloading");
    } else {
        info!("manifest: downloading");
    }
    let top = client.manifest(repository, &version, accept)?.ok_or_else(|| not_in_registry(client, reference))?;
    let mut document = parse(&top, reference)?;
    let mut at = top.clone();
    // An index may name an index (OCI image specification 1.1); four deep is more than anyone has.
    for depth in 0.. {
        let Document::Index(index) = &document else { break };
        if depth == 4 {
            bail!("{reference}: indexes nested too deep");
        }
        let descriptor = choose(index, wanted)?.clone();
        let cached = storage.and_then(|s| s.blob_bytes(&descriptor.digest));
        at = match cached {
            Some(bytes) => {
                info!("manifest: using existing file");
                Fetched { bytes, digest: descriptor.digest, content_type: Some(descriptor.media_type.clone()) }
            }
            None => {
                info!("manifest: downloading");
                client
                    .manifest(repository, &descriptor.digest.to_string(), Accept::Any)?
                    .ok_or_else(|| lost(client, reference, &descriptor.digest))?
            }
        };
        if at.digest != descriptor.digest || at.bytes.len() as u64 != descriptor.size {
            bail!("{reference}: manifest differs from its descriptor in the index");
        }
        document = parse(&at, reference)?;
    }
    let Document::Manifest(manifest) = document else { bail!("{reference}: no manifest") };
    check_types(&manifest, reference)?;
    let (config_bytes, cached) = match storage.and_then(|s| s.blob_bytes(&manifest.config.digest)) {
        Some(bytes) => (bytes, true),
        None => (Vec::new(), false),
    };
    info!("config: {}", if cached { "using existing file" } else { "downloading" });
    let config_bytes = if cached { config_bytes } else { client.blob_bytes(repository, &manifest.config)? };
    let config = Config::parse(&config_bytes)?;
    if top.digest == at.digest {
        check_unaware(wanted, &config)?;
    }
    Ok(Resolved { top, manifest_bytes: at.bytes, manifest_digest: at.digest, manifest, config, config_bytes })
}

fn parse(fetched: &Fetched, reference: &ImageRef) -> Result<Document> {
    Document::parse(&fetched.bytes, fetched.content_type.as_deref())
        .map_err(|e| e.context(reference.canonical_remote()))
}

/// A lone manifest says its architecture only in its configuration. On amd64 it is taken with a word (manual page,
/// `--arch`, note 2), elsewhere if the configuration says that it fits.
fn check_unaware(wanted: &Wanted, config: &Config) -> Result<()> {
    let Wanted::Arch(wanted) = wanted else { return Ok(()) };
    if config.arch().is_some_and(|have| wanted.accepts(&have)) {
        return Ok(());
    }
    if wanted.as_str() == "amd64" {
        warning!("image is architecture-unaware");
        warning!("requested arch is amd64; using --arch=yolo");
        return Ok(());
    }
    Err(Error::new("image is architecture-unaware").hint("consider --arch=yolo"))
}

/// The image of an index that is wanted.
pub fn choose<'i>(index: &'i Index, wanted: &Wanted) -> Result<&'i crate::oci::manifest::Descriptor> {
    let fits = |arch: &Option<Arch>| match (wanted, arch) {
        (Wanted::Yolo, _) => true,
        (Wanted::Arch(wanted), Some(arch)) => wanted == arch,
        (Wanted::Arch(_), None) => false,
    };
    // The very name first: arm/v7 must not be served by arm where both are there.
    let exact = index.entries.iter().find(|e| fits(&e.arch));
    let close = || {
        let Wanted::Arch(wanted) = wanted else { return None };
        index.entries.iter().find(|e| e.arch.as_ref().is_some_and(|a| wanted.accepts(a)))
    };
    // An index of one image without a platform is as good as a manifest.
    let only = || index.entries.first().filter(|e| index.entries.len() == 1 && e.arch.is_none());
    match exact.or_else(close).or_else(only) {
        Some(entry) => Ok(&entry.descriptor),
        None => {
            let mut have: Vec<&str> = index.entries.iter().filter_map(|e| e.arch.as_ref()).map(Arch::as_str).collect();
            have.sort();
            have.dedup();
            let have: Vec<_> = have.into_iter().map(crate::log::escape).collect();
            let hint = match have.is_empty() {
                true => "nothing in its index is an image for Linux".to_owned(),
                false => format!("available: {}", have.join(" ")),
            };
            Err(Error::new(format!("requested arch unavailable: {}", wanted.name())).hint(hint))
        }
    }
}

/// Layers that are no file trees (signatures, charts) are refused by name.
fn check_types(manifest: &Manifest, reference: &ImageRef) -> Result<()> {
    let fits = |media_type: &str| {
        media_type.is_empty()
            || media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    };
    match manifest.layers.iter().find(|l| !fits(&l.media_type)) {
        None => Ok(()),
        Some(layer) => Err(Error::new(format!(
            "{reference} is not a container image: it has a layer of type {}",
            crate::log::escape(&layer.media_type)
        ))
        .hint("it may be a signature, a chart or another artifact")),
    }
}
