//! Text for people and from strangers.
//!
//! * `human`: numbers with their nouns, sizes and spans of time.
//! * `escape`: strings that a peer, a workload or a file decides, made safe to show.
//! * `shorten`: text, or a list of words, that is too long for its place.

mod escape;
mod human;
mod shorten;

pub use self::escape::{
    escape, escape_json, is_hostile, is_printable_ascii, printable, printable_ascii,
};
pub use self::human::{count_noun, count_noun_is, human_bytes, human_millis, human_seconds};
pub use self::shorten::{first_of, shorten};
