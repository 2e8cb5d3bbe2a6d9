//! Platter: what was synced, and what a power cut may leave of the rest.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::Result;
use fastrand::Rng;

/// The unit that a disk writes wholly or not at all.
const SECTOR: usize = 512;

/// Operations on a folder's files, in the order in which they are known to have happened.
pub struct Log {
    pub(super) start: Platter,
    pub(super) operations: Vec<Operation>,
}

pub(super) enum Operation {
    Acknowledge(u64),
    Change(Arc<str>, Change),
    /// `covers`: how many operations were in the log when the sync began, as later ones may have missed it.
    Sync {
        file: Arc<str>,
        covers: usize,
        succeeded: bool,
    },
    Delete(Arc<str>),
}

#[derive(Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Truncate(usize),
}

impl Log {
    /// Visits each power cut that may find something else on the disk: just before each sync and each deletion took
    /// effect, and after the last operation. Says how many there were.
    ///
    /// # Errors
    ///
    /// The first that `visit` gives.
    pub fn cuts(&self, mut visit: impl FnMut(Cut<'_>) -> Result<()>) -> Result<usize> {
        let mut platter = self.start.clone();
        let mut cuts = 1;
        for operation in &self.operations {
            if matches!(operation, Operation::Sync { succeeded: true, .. } | Operation::Delete(_)) {
                visit(Cut(&platter))?;
                cuts += 1;
            }
            platter.apply(operation);
        }
        visit(Cut(&platter))?;
        Ok(cuts)
    }
}

/// A power cut.
pub struct Cut<'log>(&'log Platter);

impl Cut<'_> {
    /// Acknowledgements before the cut.
    pub fn acknowledged(&self) -> &[u64] {
        &self.0.acknowledged
    }

    /// Writes the files into an empty folder as of their last syncs.
    ///
    /// # Errors
    ///
    /// Where the files can't be written.
    pub fn restore(&self, folder: &Path) -> Result<()> {
        self.write(folder, |file| file.synced.clone())
    }

    /// Restores the same, but each pending change survives, is lost, or is torn between two sectors, as the seed has it.
    ///
    /// # Errors
    ///
    /// Where the files can't be written.
    pub fn restore_torn(&self, folder: &Path, seed: u64) -> Result<()> {
        let mut dice = Rng::with_seed(seed);
        self.write(folder, |file| file.torn(&mut dice))
    }

    fn write(&self, folder: &Path, mut content: impl FnMut(&File) -> Option<Vec<u8>>) -> Result<()> {
        for (name, file) in &self.0.files {
            if let Some(bytes) = content(file) {
                fs::write(folder.join(&**name), bytes)?;
            }
        }
        Ok(())
    }
}

/// State after a number of operations: what is durable, and what is on its way there.
#[derive(Clone, Default)]
pub(super) struct Platter {
    pub(super) files: BTreeMap<Arc<str>, File>,
    acknowledged: Vec<u64>,
    pub(super) operations: usize,
}

#[derive(Clone, Default)]
pub(super) struct File {
    /// Durable content; none until the first sync: the file itself may be missing.
    pub(super) synced: Option<Vec<u8>>,
    /// Changes, with their places in the log.
    pub(super) pending: Vec<(usize, Change)>,
}

impl Platter {
    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Acknowledge(mark) => self.acknowledged.push(*mark),
            Operation::Change(name, change) => {
                self.files.entry(name.clone()).or_default().pending.push((self.operations, change.clone()));
            }
            Operation::Sync { file: name, covers, succeeded } => {
                let file = self.files.entry(name.clone()).or_default();
                let covered = file.pending.partition_point(|(place, _)| place < covers);
                let covered = file.pending.drain(..covered);
                if *succeeded {
                    let image = file.synced.get_or_insert_default();
                    covered.for_each(|(_, change)| change.apply(image));
                }
            }
            Operation::Delete(name) => {
                self.files.remove(name);
            }
        }
        self.operations += 1;
    }
}

impl File {
    fn torn(&self, dice: &mut Rng) -> Option<Vec<u8>> {
        let mut image = match &self.synced {
            Some(image) => image.clone(),
            None if dice.usize(..2) == 0 => return None,
            None => Vec::new(),
        };
        for (_, change) in &self.pending {
            match (dice.usize(..3), change) {
                (0, _) => {}
                (1, Change::Write { offset, bytes }) => {
                    let into_sector = offset % SECTOR;
                    let sectors = (into_sector + bytes.len()).div_ceil(SECTOR).max(1);
                    let tear = (dice.usize(..sectors) * SECTOR).saturating_sub(into_sector);
                    // A disk may write the sectors in any order.
                    match dice.usize(..2) {
                        0 => put(&mut image, *offset, &bytes[..tear]),
                        _ => put(&mut image, offset + tear, &bytes[tear..]),
                    }
                }
                _ => change.apply(&mut image),
            }
        }
        Some(image)
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(image, *offset, bytes),
            Self::Truncate(size) => image.resize(*size, 0),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}
