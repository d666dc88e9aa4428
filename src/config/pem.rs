//! The private key in `<pemfile>`, when it is encrypted with `<private_key_password>`.

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::SecretDocument;

/// What to do about a key that cannot be read.
const ADVICE: &str = "openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD writes one that can be read";

/// The key in PKCS #8 form (DER), when `text` holds an encrypted one; `None`: it holds none, or one that is not
/// encrypted.
///
/// # Errors
/// In words: there is no password, or not the right one; or the encryption is an old one.
pub fn decrypt_key(text: &[u8], password: Option<&str>) -> Result<Option<SecretDocument>, String> {
    let text = String::from_utf8_lossy(text);
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!("the key is encrypted in OpenSSL's old form; {ADVICE}"));
    }
    let Some(block) = block(&text, "ENCRYPTED PRIVATE KEY") else {
        return Ok(None);
    };
    let password = password.ok_or("the key is encrypted, but there is no <private_key_password>")?;
    let (_, sealed) =
        SecretDocument::from_pem(block).map_err(|error| format!("the encrypted key is damaged: {error}"))?;
    let sealed = EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes())
        .map_err(|error| format!("the key is encrypted in a form that cannot be read ({error}); {ADVICE}"))?;
    let wrong = |error| format!("the key cannot be decrypted with <private_key_password> ({error})");
    sealed.decrypt(password).map(Some).map_err(wrong)
}

/// The first block of this label, its marks included.
fn block<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let text = &text[text.find(&begin)?..];
    Some(&text[..text.find(&end)? + end.len()])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Written by `openssl pkcs8 -topk8 -v2 aes-256-cbc` (OpenSSL 3.0), with the password `sesame`.
    const SEALED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgpq3UqmLc1bAICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEIBB4stwHRkWMEWBg/vVT+cEgZAK
lHXsDU1jMKfNigP+iQZ1S2SfN9X9gdXU+q8rI1KK7VvYDgF4vJZtZEZYZUxsHx++
QQY8EJlb+GjEL3SX8BbpYHmIFpXN2U7iDV25+QS+s9qpXNFYcmeWwy2T0eZBRAl0
4FuNc8JZvH4Psyv37ldu8LmYSGGDxtPDoAWLcWHkR0+2MLABfV/KMuV1HYKFFs0=
-----END ENCRYPTED PRIVATE KEY-----
";

    #[test]
    fn a_key_is_decrypted_with_its_password() {
        let file = format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{SEALED}");
        let key = decrypt_key(file.as_bytes(), Some("sesame")).unwrap().unwrap();
        // An EC key of 32 bytes (RFC 5915) in PKCS #8.
        assert_eq!((key.as_bytes()[0], key.as_bytes().len()), (0x30, 138));
    }

    #[test]
    fn who_has_no_password_or_a_wrong_one_is_told() {
        let why = |text: &str, password| decrypt_key(text.as_bytes(), password).unwrap_err();
        assert!(why(SEALED, None).contains("there is no <private_key_password>"));
        assert!(why(SEALED, Some("simsim")).contains("cannot be decrypted"));
        assert!(why(&SEALED.replace("MIHs", "MIHt"), Some("sesame")).contains("key"));
        let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,35\n";
        assert!(why(old, Some("sesame")).contains("openssl pkcs8"));
        assert!(decrypt_key(b"-----BEGIN PRIVATE KEY-----", None).unwrap().is_none());
    }
}
