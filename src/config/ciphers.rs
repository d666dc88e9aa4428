//! `<ciphers>`: OpenSSL's cipher list, applied to the cipher suites of TLS 1.2 that jidmesh has. As in OpenSSL it says
//! nothing about TLS 1.3. The notation is that of openssl-ciphers(1).

/// A cipher suite of TLS 1.2 that jidmesh has, by its OpenSSL name.
pub type Suite = &'static str;

/// All of them, in the order in which they are preferred, and the words by which a list selects them.
const SUITES: [(Suite, &[&str]); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        &["aECDSA", "ECDSA", "AES256", "AES", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        &["aRSA", "AES256", "AES", "AESGCM", "FIPS"],
    ),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", &["aECDSA", "ECDSA", "CHACHA20"]),
    ("ECDHE-RSA-CHACHA20-POLY1305", &["aRSA", "CHACHA20"]),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        &["aECDSA", "ECDSA", "AES128", "AES", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        &["aRSA", "AES128", "AES", "AESGCM", "FIPS"],
    ),
];

/// Words that select every one of them.
const EVERY: [&str; 8] = ["ALL", "HIGH", "TLSv1.2", "kECDHE", "kEECDH", "ECDHE", "EECDH", "ECDH"];

/// The suites of TLS 1.2 that an OpenSSL cipher list leaves, the preferred first. Empty: none.
pub fn suites(list: &str) -> Vec<Suite> {
    let mut chosen: Vec<Suite> = Vec::new();
    let mut killed: Vec<Suite> = Vec::new();
    // A command may hang on a word: `DEFAULT@SECLEVEL=2`.
    let words = list.split([':', ',', ';', ' ']).flat_map(|word| match word.find('@') {
        Some(at) => [&word[..at], &word[at..]],
        None => [word, ""],
    });
    for (nth, word) in words.filter(|word| !word.is_empty()).enumerate() {
        // Elsewhere it is no word.
        let word = if nth == 0 && word == "DEFAULT" { "ALL" } else { word };
        if let Some(command) = word.strip_prefix('@') {
            if command == "STRENGTH" {
                chosen.sort_by_key(|suite| suite.contains("AES128"));
            }
            continue;
        }
        let operator = word.chars().next().filter(|first| "!-+".contains(*first));
        let meant = selected(word.strip_prefix(['!', '-', '+']).unwrap_or(word));
        let (named, others): (Vec<Suite>, Vec<Suite>) = chosen.iter().partition(|suite| meant.contains(suite));
        match operator {
            Some('!') => {
                killed.extend(meant);
                chosen = others;
            }
            Some('-') => chosen = others,
            Some(_) => chosen = [others, named].concat(),
            None => {
                let new = |suite: &Suite| !chosen.contains(suite) && !killed.contains(suite);
                let new: Vec<Suite> = meant.into_iter().filter(new).collect();
                chosen.extend(new);
            }
        }
    }
    chosen
}

/// The suites that a word stands for: each of its parts, joined by `+`, selects them. An unknown word selects none.
fn selected(word: &str) -> Vec<Suite> {
    let is = |suite: Suite, tags: &[&str], part: &str| part == suite || EVERY.contains(&part) || tags.contains(&part);
    let all = |(suite, tags): &&(Suite, &[&str])| word.split('+').all(|part| is(suite, tags, part));
    SUITES.iter().filter(all).map(|(suite, _)| *suite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSL 3.0 leaves of the six (`openssl ciphers -tls1_2 -s LIST`), in short: e, r for ECDSA, RSA.
    #[test]
    fn a_list_leaves_what_openssl_leaves() {
        let cases = [
            ("DEFAULT", "e256 r256 eC rC e128 r128"),
            ("HIGH:!aNULL:!MD5", "e256 r256 eC rC e128 r128"),
            ("ECDHE-RSA-AES128-GCM-SHA256", "r128"),
            ("CHACHA20:AES128", "eC rC e128 r128"),
            ("kEECDH+AESGCM:!aECDSA", "r256 r128"),
            ("ALL:-CHACHA20:CHACHA20+aRSA", "e256 r256 e128 r128 rC"),
            ("HIGH:+AES256", "eC rC e128 r128 e256 r256"),
            ("AES128:ALL:@STRENGTH", "e256 r256 eC rC e128 r128"),
            ("RSA", ""),
            ("SHA384", ""),
            ("FIPS", "e256 r256 e128 r128"),
            ("EECDH+CHACHA20 EECDH+AES128,EECDH+AES256;!ECDSA", "rC r128 r256"),
            ("NOSUCH:AES256", "e256 r256"),
            ("NOSUCH+AES", ""),
            ("ALL:!ALL:AES", ""),
            ("aes128", ""),
            ("DEFAULT@SECLEVEL=2", "e256 r256 eC rC e128 r128"),
            ("AES128:DEFAULT", "e128 r128"),
            ("ECDSA", "e256 eC e128"),
            ("ALL:!ECDHE+AES256", "eC rC e128 r128"),
            ("+HIGH", ""),
            ("ALL:-AES:AES", "eC rC e256 r256 e128 r128"),
        ];
        for (list, wanted) in cases {
            let left: Vec<String> = suites(list).into_iter().map(short).collect();
            assert_eq!(left.join(" "), wanted, "{list}");
        }
    }

    fn short(suite: Suite) -> String {
        let key = if suite.contains("ECDSA") { "e" } else { "r" };
        let cipher = ["256", "128", "C"]
            .into_iter()
            .find(|text| suite.contains(&format!("AES{text}")));
        format!("{key}{}", cipher.unwrap_or("C"))
    }
}
