//! How a node's image is written: as MessagePack, with the names of all fields. A reader knows them by these, skips those
//! that it does not know, and takes the default for those that are missing and have one.
//!
//! What there is as much of as there are sessions is *packed* instead: without names, in half the bytes and time. A reader
//! must know the same fields in the same order.
//!
//! A *record* is its length (4 bytes, the lowest first), the length of its key (2 bytes), the key, and content: whoever reads
//! many can take out those whose keys concern him, and need not understand the others.

use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Writes a part of an image.
///
/// # Errors
/// In an operator's words.
pub fn write(part: &impl Serialize) -> Result<Vec<u8>, String> {
    rmp_serde::to_vec_named(part).map_err(|error| error.to_string())
}

/// Reads it.
///
/// # Errors
/// It is none, in an operator's words.
pub fn read<T: DeserializeOwned>(image: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(image).map_err(|error| error.to_string())
}

/// Writes it behind what there is.
///
/// # Errors
/// In an operator's words.
pub fn write_to(into: &mut Vec<u8>, part: &impl Serialize) -> Result<(), String> {
    rmp_serde::encode::write_named(into, part).map_err(|error| error.to_string())
}

/// The same, packed. [`read`] reads it.
///
/// # Errors
/// In an operator's words.
pub fn pack_to(into: &mut Vec<u8>, part: &impl Serialize) -> Result<(), String> {
    rmp_serde::encode::write(into, part).map_err(|error| error.to_string())
}

/// Writes a record behind what there is; `content` writes its content.
///
/// # Errors
/// That of `content`, or it is too long; then nothing is written.
pub fn record(
    into: &mut Vec<u8>,
    key: &str,
    content: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    let at = into.len();
    let key_len = u16::try_from(key.len()).map_err(|error| error.to_string())?;
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&key_len.to_le_bytes());
    into.extend_from_slice(key.as_bytes());
    let len = content(into).and_then(|()| u32::try_from(into.len() - at - 4).map_err(|error| error.to_string()));
    match len {
        Ok(len) => into[at..at + 4].copy_from_slice(&len.to_le_bytes()),
        Err(_) => into.truncate(at),
    }
    len.map(drop)
}

/// Records: (whole record, key, content). Ends where one is cut off.
pub fn records(all: &[u8]) -> impl Iterator<Item = (&[u8], &str, &[u8])> {
    let mut rest = all;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (body, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let whole = &rest[..4 + body.len()];
        rest = tail;
        let (length, body) = body.split_first_chunk::<2>()?;
        let (key, content) = body.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((whole, std::str::from_utf8(key).ok()?, content))
    })
}

/// For a field of bytes: as they are, and not as a list of numbers.
pub mod bytes {
    use super::*;

    struct Raw;

    impl Visitor<'_> for Raw {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes.as_ref())
    }

    /// Reads them.
    ///
    /// # Errors
    /// There is something else.
    pub fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(from: D) -> Result<T, D::Error> {
        from.deserialize_byte_buf(Raw).map(T::from)
    }
}

/// For a list of frames.
pub mod frames {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Frame(#[serde(with = "super::bytes")] Box<[u8]>);

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(frames: &[Box<[u8]>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(frames.iter().map(|frame| Frame(frame.clone())))
    }

    /// Reads them.
    ///
    /// # Errors
    /// One is something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Box<[u8]>>, D::Error> {
        let frames = Vec::<Frame>::deserialize(from)?;
        Ok(frames.into_iter().map(|frame| frame.0).collect())
    }
}
