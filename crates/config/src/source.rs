//! Reads files within bounds and decodes them; says why one is missing.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::problem::{ConfigProblem, Position, ProblemKind, ProblemSeverity, ValueProblem};

/// The largest file that is read. A thousand exports fit several times.
pub const MAX_BYTES: u64 = 1 << 20;

/// A file or folder that the configuration refers to, and where it does so.
#[derive(Debug)]
pub(crate) struct FileReference {
    pub(crate) path: String,
    pub(crate) position: Position,
    pub(crate) file: PathBuf,
    pub(crate) kind: ReferenceKind,
}

/// The kind of files that a [`FileReference`] has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReferenceKind {
    /// A trust bundle.
    Bundle,
    /// The identity folder, with what has to be in it.
    Identity,
}

/// Reads a configuration file.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Box<ConfigProblem>> {
    let refuse = |finding: ValueProblem| Box::new(finding.at(ProblemSeverity::Error, "", None));
    let text = read_file(file).map_err(refuse)?;
    if text.len() as u64 > MAX_BYTES {
        let message = "larger than 1 MiB: expected a configuration file";
        return Err(refuse(ValueProblem::new(ProblemKind::Syntax, message)));
    }
    Ok(text)
}

/// A regular file, up to one byte more than [`MAX_BYTES`].
pub(crate) fn read_file(file: &Path) -> Result<Vec<u8>, ValueProblem> {
    let unreadable = |error: io::Error| {
        ValueProblem::new(ProblemKind::Unreadable, format!("cannot read: {error}"))
            .hint(access_hint(error.kind()))
    };
    // Looked at before it is opened: to open a named pipe would wait for its other end.
    let kind = fs::metadata(file).map_err(unreadable)?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "something else" };
        let message = format!("cannot read: expected a file, found {found}");
        return Err(ValueProblem::new(ProblemKind::Unreadable, message));
    }
    let mut text = Vec::new();
    let file = fs::File::open(file).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Advice for a file that cannot be read; `missing` says what makes one that is not there.
#[must_use]
pub fn unreadable_hint(kind: io::ErrorKind, missing: &str) -> String {
    access_hint(kind).unwrap_or_else(|| missing.to_owned())
}

/// Advice where the system does not let this process read.
fn access_hint(kind: io::ErrorKind) -> Option<String> {
    let is_refused = kind == io::ErrorKind::PermissionDenied;
    is_refused.then(|| {
        "it is kept from the user that this runs as: run as its owner, or give it, and the folders on the way, to \
         that user (chown)"
            .to_owned()
    })
}

/// UTF-8, or the place of the first byte that is not.
pub(crate) fn decode(text: &[u8]) -> Result<&str, Box<ConfigProblem>> {
    std::str::from_utf8(text).map_err(|error| {
        let (good, bad) = text.split_at(error.valid_up_to());
        let before = String::from_utf8_lossy(good);
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1;
        let byte = bad.first().copied().unwrap_or_default();
        let message = format!("not UTF-8: found byte 0x{byte:02x}");
        let wide = text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]);
        let hint = wide.then(|| "it looks like UTF-16; save it as UTF-8".to_owned());
        let finding = ValueProblem::new(ProblemKind::Syntax, message).hint(hint);
        Box::new(finding.at(ProblemSeverity::Error, "", Position { line, column }))
    })
}

/// The findings about a file or folder that the configuration refers to: what of it is missing.
pub(crate) fn check_reference(reference: &FileReference) -> Vec<ConfigProblem> {
    let FileReference { path, position, file, kind: want } = reference;
    let problem = |file: &Path, finding: ValueProblem, hint: &str| {
        let message = format!("{}: {}", file.display(), finding.message);
        let hint = finding.hint.clone().unwrap_or_else(|| hint.to_owned());
        let finding = ValueProblem { message, ..finding }.hint(hint);
        finding.at(ProblemSeverity::Error, path, *position)
    };
    let lacks =
        |file: &Path, hint| read_file(file).err().map(|finding| problem(file, finding, hint));
    match want {
        ReferenceKind::Bundle => {
            let hint = "`adit pki bundle` on the other cluster writes it";
            lacks(file, hint).into_iter().collect()
        }
        ReferenceKind::Identity => {
            let hint = "`adit pki issue` writes it";
            let found = match fs::metadata(file) {
                Ok(found) if found.is_dir() => None,
                Ok(_) => Some(ValueProblem::new(ProblemKind::Unreadable, "expected a folder")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(ValueProblem::new(ProblemKind::Unreadable, "no such folder"))
                }
                Err(error) => {
                    let finding =
                        ValueProblem::new(ProblemKind::Unreadable, format!("cannot read: {error}"));
                    Some(finding.hint(access_hint(error.kind())))
                }
            };
            if let Some(finding) = found {
                return vec![problem(file, finding, hint)];
            }
            Config::IDENTITY_FILES.iter().filter_map(|name| lacks(&file.join(name), hint)).collect()
        }
    }
}

#[cfg(test)]
mod tests;
