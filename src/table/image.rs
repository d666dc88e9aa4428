//! How bytes stand in a node's image, which is text: as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// For a field of bytes.
pub mod bytes {
    use super::*;

    /// As text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    /// From text.
    ///
    /// # Errors
    /// It is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(from: D) -> Result<T, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        STANDARD.decode(&*text).map(T::from).map_err(D::Error::custom)
    }
}

/// For a list of frames.
pub mod frames {
    use super::*;
    use serde::Serialize;

    #[derive(Serialize, Deserialize)]
    struct Frame(#[serde(with = "super::bytes")] Box<[u8]>);

    /// As texts.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(frames: &[Box<[u8]>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(frames.iter().map(|frame| Frame(frame.clone())))
    }

    /// From texts.
    ///
    /// # Errors
    /// One is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Box<[u8]>>, D::Error> {
        let frames = Vec::<Frame>::deserialize(from)?;
        Ok(frames.into_iter().map(|frame| frame.0).collect())
    }
}
