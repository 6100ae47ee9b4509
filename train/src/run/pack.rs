//! A run with the weights of its backbone in one folder.

use std::fs;
use std::path::Path;

use headstock_inference::{BackboneOptions, CONFIG_FILE, Progress};
use headstock_loader::source::parent_folder;

use super::Run;
use crate::atomic_write::write_atomically;
use crate::error::{Remedy, TrainError};
use crate::temp_folder::TempFolder;

/// The subfolder of the weights.
const WEIGHTS_FOLDER: &str = "backbone";

/// The file of the weights, and the files beside it that say how images are preprocessed.
const WEIGHTS_FILE: &str = "model.safetensors";
const PREPROCESSING_FILES: [&str; 2] = ["config.json", "preprocessor_config.json"];

impl Run {
    /// Writes the run to the new folder `out` with all that predictions need: the files of the run, and in
    /// `backbone` the weights that `options` name, which must be those of the run, with the files that describe
    /// the preprocessing. The config names no place of this machine.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if `out` exists, [`TrainError::Inference`] for the weights and the files.
    pub fn pack(
        &self,
        options: &BackboneOptions,
        out: &Path,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let already_exists = || {
            let problem = format!("{} already exists: a run is never overwritten", out.display());
            TrainError::Usage(problem).with_remedy(Remedy::OtherPackFolder)
        };
        // A dangling link counts as existing, too.
        if fs::symlink_metadata(out).is_ok() {
            return Err(already_exists());
        }
        let pretrained = self.model.open_backbone_any_layer(options, progress)?;
        let weights = pretrained.checkpoint().path();
        let parent = parent_folder(out);
        fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
        let folder = TempFolder::create_in(parent).map_err(TrainError::io("write in", parent))?;

        let entries = fs::read_dir(&self.folder).map_err(TrainError::io("read", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(TrainError::io("read", &self.folder))?.path();
            if let Some(name) = path.file_name().filter(|name| path.is_file() && *name != CONFIG_FILE) {
                copy_file(&path, &folder.path().join(name))?;
            }
        }
        write_atomically(
            &folder.path().join(CONFIG_FILE),
            self.config.packed_text(WEIGHTS_FOLDER).as_bytes(),
        )?;
        let target = folder.path().join(WEIGHTS_FOLDER);
        fs::create_dir(&target).map_err(TrainError::io("create", &target))?;
        copy_file(weights, &target.join(WEIGHTS_FILE))?;
        for name in PREPROCESSING_FILES {
            let file = parent_folder(weights).join(name);
            if file.is_file() {
                copy_file(&file, &target.join(name))?;
            }
        }
        folder.persist(|temporary| {
            if fs::symlink_metadata(out).is_ok() {
                return Err(already_exists());
            }
            fs::rename(temporary, out).map_err(TrainError::io("write", out))
        })
    }
}

/// Copies the contents of the file `from`, or of the file that it is a link to, to the new file `to`.
fn copy_file(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::copy(from, to).map_err(TrainError::io("copy", from))?;
    Ok(())
}
