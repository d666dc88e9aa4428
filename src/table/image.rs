//! How a node's image is written: as MessagePack, with the names of all fields. A reader knows them by these, skips those
//! that it does not know, and takes the default for those that are missing and have one.

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
