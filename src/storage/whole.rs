//! Plain storage: the whole trees of images, and what layers hide.
//!
//! Where overlayfs can't be had, nothing can show several layers as one tree, so an image that commands run in has a
//! whole tree besides: a layer of its own, which can be made again at any time. It is kept as long as an image of these
//! layers has a name.

use std::io::{self, Read};

use super::files::open_file;
use super::handle::Draft;
use super::init::Mode;
use super::layers::write_new;
use super::{Image, LayerId, Storage};
use crate::error::{Context, Result};
use crate::oci::digest::Digest;
use crate::rootfs::{LayerDir, Marks};

/// Name of the file beside a layer's tree.
const MARKS: &str = "marks";
/// Longest such file, bytes.
const MAX_MARKS: u64 = 256 << 20;

impl Storage {
    /// The whole tree of these layers, if there is one; the lowest layer is whole by itself. `None` in overlay mode,
    /// where it takes no tree to see an image.
    pub fn whole_tree(&self, layers: &[LayerId]) -> Option<LayerId> {
        self.name_of_whole(layers).filter(|id| self.has_layer(id))
    }

    /// What that tree is called. A layer's name says what is below it.
    pub fn name_of_whole(&self, layers: &[LayerId]) -> Option<LayerId> {
        match (self.mode(), layers) {
            (Mode::Overlay, _) | (Mode::Plain, []) => None,
            (Mode::Plain, [only]) => Some(*only),
            (Mode::Plain, [.., top]) => Some(LayerId::new(Digest::of(format!("whole 1\n{top}").as_bytes()))),
        }
    }

    /// The layer in which a command runs in this image; in overlay mode, the one that stands for all.
    pub(super) fn place_of(&self, image: &Image) -> Option<LayerId> {
        self.name_of_whole(&image.layers).or(image.layers.last().copied())
    }

    /// Layers as a stack, lowest first.
    pub fn layer_dirs(&self, layers: &[LayerId]) -> Result<Vec<LayerDir>> {
        let dir = |id: &LayerId| Ok(LayerDir { tree: self.layer_tree(id), marks: self.layer_marks(id)? });
        layers.iter().map(dir).collect()
    }

    /// What the layer hides, where its tree does not say it.
    pub fn layer_marks(&self, id: &LayerId) -> Result<Marks> {
        if self.mode() == Mode::Overlay {
            return Ok(Marks::default());
        }
        let path = self.layer_path(id).join(MARKS);
        let mut text = Vec::new();
        match open_file(&path).and_then(|file| file.take(MAX_MARKS).read_to_end(&mut text)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Marks::default()),
            Err(e) => Err(e).context(|| format!("can't read {}", path.display())),
            Ok(_) => Marks::parse(&text).context(|| path.display().to_string()),
        }
        .map_err(|e| {
            e.context(format!("damaged layer {id}"))
                .hint("ch-image fsck --repair drops what is damaged; then build again")
        })
    }

    /// Puts what a layer hides into its draft.
    pub fn add_marks(&self, draft: &Draft, marks: &Marks) -> Result<()> {
        if marks.is_empty() {
            return Ok(());
        }
        let path = draft.path().join(MARKS);
        write_new(&path, &marks.to_text()).context(|| format!("can't write {}", path.display()))
    }
}
