//! WebDataset: tar archives in which the files of a sample stand next to each other under one name.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::csv::relative_path;
use super::folder::is_photo;
use super::shards::Found;
use super::{Entry, Fields, Listing, Part, Source};
use crate::dataset::{DatasetError, Listed};
use crate::photo::Photo;
use crate::shard::tar::{Member, TarShard, walk};

/// A label, or a record of one sample, of more bytes than this is none.
const MOST_OF_LABEL: u64 = 1 << 20;

/// Tar archives, compressed or not. The files of a sample have one path up to the first dot of the name: `cat/7.jpg` is the
/// photo; `cat/7.cls` its class (a number or a name), or `cat/7.json` an object with the class in the field `label`, or
/// `cat/7.txt` the name of the class. Of several the first in this order counts.
///
/// The part of a sample is the one that its shard's name tells, or the field's where `fields` names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebDatasetSource {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// The fields of `json` members.
    pub fields: Fields,
}

impl Source for WebDatasetSource {
    fn list(&self) -> Result<Listing, DatasetError> {
        let class = format!("`cls`, `json` with `{}`, `txt`", self.fields.label);
        Ok(self.read()?.listing(&self.shards, &class))
    }

    fn unlabelled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read()?.unlabelled)
    }
}

impl WebDatasetSource {
    fn read(&self) -> Result<Found, DatasetError> {
        Found::read(&self.shards, |path, name| self.read_shard(path, name))
    }

    fn read_shard(&self, path: &Path, name: &str) -> Result<Found, DatasetError> {
        let fault = |problem| DatasetError::Shard { path: path.into(), problem };
        let (mut groups, mut faults) = (Vec::<Group>::new(), Vec::new());
        let mut photos = Vec::new();
        let mut meet = |member: Member, bytes: &mut dyn Read| {
            let Some(clean) = relative_path(&member.path) else {
                let what = format!("{}: the member `{}`", path.display(), member.path.escape_debug());
                faults.push(DatasetError::LeavesRoot { what, root: path.into() });
                return Ok(());
            };
            let (key, ending) = split(&clean);
            if groups.last().is_none_or(|group| group.key != key) {
                groups.push(Group { key: key.to_owned(), ..Group::default() });
            }
            let group = groups.last_mut().expect("one was pushed");
            if is_photo(Path::new(&clean)) && !ending.contains('.') {
                group.photos.push(clean);
                photos.push(member);
            } else if let Some(kind) = Kind::of(ending) {
                let text = read_text(&member, bytes)?;
                group.notes.push((kind, text));
            } else {
                group.others += 1;
            }
            Ok(())
        };
        let links = walk(path, &mut meet).map_err(fault)?;
        let shard =
            TarShard::new(path, photos).map_err(|source| DatasetError::Io { path: path.into(), source })?;
        let shard = Arc::new(shard);
        let part_of_shard = Part::of_shard(name);
        let mut found = Found { faults, passed_over: links, ..Found::default() };
        let (mut number, mut seen) = (0, HashMap::new());
        for (place, group) in groups.iter().enumerate() {
            found.passed_over += group.others;
            let photo = Photo::record(shard.clone(), number);
            number += group.photos.len();
            let [member] = group.photos.as_slice() else {
                if group.photos.len() > 1 {
                    let photos = Listed(group.photos.clone()).to_string();
                    found
                        .faults
                        .push(fault(format!("the sample `{}` has several photos: {photos}", group.key)));
                }
                continue;
            };
            if let Some(first) = seen.insert(&group.key, place) {
                let problem = format!(
                    "the sample `{}` stands at two places (sample {} and {}): the files of a sample stand together, under a name of their own",
                    group.key,
                    first + 1,
                    place + 1
                );
                found.faults.push(fault(problem));
                continue;
            }
            let id = format!("{name}/{member}");
            let notes =
                group.notes(&self.fields).map_err(|problem| fault(format!("`{}`: {problem}", group.key)))?;
            match notes.class {
                None => found.unlabelled.push(id),
                Some(class) => {
                    let part = if self.fields.part.is_some() { notes.part } else { part_of_shard };
                    found.entries.push(Entry { id, photo, class, group: notes.group, part });
                }
            }
        }
        Ok(found)
    }
}

/// The key of a sample, and what kind of file it is.
fn split(path: &str) -> (&str, &str) {
    let name = path.rfind('/').map_or(0, |at| at + 1);
    match path[name..].find('.') {
        Some(dot) => (&path[..name + dot], &path[name + dot + 1..]),
        None => (path, ""),
    }
}

fn read_text(member: &Member, bytes: &mut dyn Read) -> Result<String, String> {
    let name = member.path.escape_debug();
    if member.size > MOST_OF_LABEL {
        return Err(format!("`{name}` is no label: it has {} bytes", member.size));
    }
    let mut text = String::new();
    bytes.read_to_string(&mut text).map_err(|error| format!("`{name}`: {error}"))?;
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cls,
    Json,
    Txt,
}

impl Kind {
    fn of(ending: &str) -> Option<Self> {
        match ending.to_ascii_lowercase().as_str() {
            "cls" => Some(Self::Cls),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Txt),
            _ => None,
        }
    }
}

/// The files of a sample.
#[derive(Default)]
struct Group {
    key: String,
    photos: Vec<String>,
    notes: Vec<(Kind, String)>,
    others: usize,
}

/// What they say.
#[derive(Default)]
struct Notes {
    class: Option<String>,
    group: Option<String>,
    part: Option<Part>,
}

impl Group {
    fn notes(&self, fields: &Fields) -> Result<Notes, String> {
        let mut notes = Notes::default();
        let mut order: Vec<&(Kind, String)> = self.notes.iter().collect();
        order.sort_by_key(|(kind, _)| *kind);
        for (kind, text) in order {
            let class = if *kind == Kind::Json {
                let record: Value = serde_json::from_str(text).map_err(|error| format!("json: {error}"))?;
                if let Some(field) = &fields.group {
                    notes.group =
                        Some(named(&record, field)?.ok_or_else(|| format!("json: there is no `{field}`"))?);
                }
                if let Some(field) = &fields.part {
                    notes.part = named(&record, field)?.map(|name| known_part(field, &name)).transpose()?;
                }
                named(&record, &fields.label)?
            } else {
                let text = text.trim();
                (!text.is_empty()).then(|| text.to_owned())
            };
            notes.class = notes.class.or(class);
        }
        let lacks = |field: &Option<String>, there: bool| field.as_ref().filter(|_| !there).cloned();
        let lacking =
            lacks(&fields.group, notes.group.is_some()).or_else(|| lacks(&fields.part, notes.part.is_some()));
        match lacking {
            Some(field) if notes.class.is_some() => Err(format!("it has no `json` with `{field}`")),
            _ => Ok(notes),
        }
    }
}

/// The text or whole number in a field; none where it is not there, or null.
fn named(record: &Value, field: &str) -> Result<Option<String>, String> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(other) => Err(format!("json: `{field}` is {other}: text or a whole number is wanted")),
    }
}

/// The part that a field says.
pub(super) fn known_part(field: &str, name: &str) -> Result<Part, String> {
    Part::named(name).ok_or_else(|| {
        format!("`{field}` is `{}`: a part is called train, validation or test", name.escape_debug())
    })
}
