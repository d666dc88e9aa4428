//! The machines of one mesh, side by side: what each says is good, and together it would break.

use std::path::{Path, PathBuf};

use super::components::Component;
use super::load::read_file;
use super::model::Mesh;
use super::{Config, Loaded, Problem};

/// The configuration of one machine, with those of its components.
#[derive(Debug)]
pub struct Machine {
    /// The configuration file.
    pub path: PathBuf,
    /// What it says.
    pub loaded: Loaded,
    components: Vec<Component>,
}

impl Machine {
    /// Reads a configuration file, or a machine's folder: its `jidmesh.xml`, else its `router.xml`. Where the file does not
    /// name the node, a folder stands for the machine of its name.
    ///
    /// # Errors
    /// All problems of that machine, the warnings among the errors.
    pub fn load(path: &Path) -> Result<Machine, Vec<Problem>> {
        let file = |name| Some(path.join(name)).filter(|file| file.is_file());
        let loaded = if path.is_dir() {
            let name = path.canonicalize().ok();
            let name = name
                .as_ref()
                .and_then(|path| path.file_name()?.to_str())
                .unwrap_or_default();
            let path = file("jidmesh.xml").unwrap_or_else(|| path.join("router.xml"));
            Config::parse(&path, name, &read_file).map(|loaded| (path, loaded))
        } else {
            Config::load(path).map(|loaded| (path.to_owned(), loaded))
        };
        let (path, loaded) = loaded?;
        let components = Component::beside(&path, &read_file);
        Ok(Machine {
            path,
            loaded,
            components,
        })
    }

    /// What of these machines does not fit together; each problem names the later of two.
    pub fn compare(machines: &[Machine]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (at, machine) in machines.iter().enumerate() {
            match &machine.loaded.config.mesh {
                Some(mesh) => problems.extend(
                    machines[..at]
                        .iter()
                        .filter_map(|other| Some((other, other.loaded.config.mesh.as_ref()?)))
                        .flat_map(|(other, theirs)| pair(machine, mesh, other, theirs)),
                ),
                None => problems.push(machine.warning("no <mesh>: this machine stays alone")),
            }
        }
        problems
    }

    fn warning(&self, text: impl Into<String>) -> Problem {
        Problem::warning(&self.path, 0, text)
    }

    fn component(&self, what: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.what == what)
    }
}

fn pair(machine: &Machine, mesh: &Mesh, other: &Machine, theirs: &Mesh) -> Vec<Problem> {
    let there = other.path.display();
    let error = |text: String| Problem::error(&machine.path, 0, text);
    let mut problems = Vec::new();
    if mesh.node == theirs.node {
        let right = "<mesh><node> must be another on each machine";
        problems.push(error(format!("node '{}' as in {there}: {right}", mesh.node)));
    }
    if mesh.cluster != theirs.cluster {
        let text = format!(
            "<mesh><cluster> '{}', and '{}' in {there}",
            mesh.cluster, theirs.cluster
        );
        problems.push(error(format!("{text}: they will not talk to each other")));
    }
    let opens = |from: &Mesh, to: &Mesh| from.secrets.first().is_some_and(|seals| to.secrets.contains(seals));
    if !opens(mesh, theirs) || !opens(theirs, mesh) {
        let right = "the first <mesh><secret> of each must be among the secrets of all";
        problems.push(error(format!("<mesh><secret> does not open {there}: {right}")));
    }
    if (&mesh.domains, mesh.exits) != (&theirs.domains, theirs.exits) {
        let text = format!("<mesh><domain> or <exits> differ from {there}");
        problems.push(machine.warning(format!("{text}: whoever decides for a user goes by its own")));
    }
    problems.extend(dialback(machine, other));
    problems.extend(ids(machine, other, theirs));
    problems
}

/// The foreign server that asks is answered by any machine's s2s.
fn dialback(machine: &Machine, other: &Machine) -> Option<Problem> {
    let (own, theirs) = (machine.component("s2s")?, other.component("s2s")?);
    // One that has none was warned about.
    let (Ok(secret), Ok(their_secret)) = (&own.secret, &theirs.secret) else {
        return None;
    };
    let there = theirs.path.display();
    let text = format!("<local><secret> differs from {there}: foreign servers refuse what one of the two s2s has said");
    (secret.text != their_secret.text).then(|| own.warning(secret.line, text))
}

/// An id without a dot is its own machine's affair; one with a dot is a name for the whole mesh.
fn ids(machine: &Machine, other: &Machine, theirs: &Mesh) -> Vec<Problem> {
    let mut problems = Vec::new();
    for component in &machine.components {
        let id = &component.id;
        let there = other.path.display();
        let repeats = id.text.contains('.') && other.components.iter().any(|other| other.id.text == id.text);
        if repeats {
            let text = format!(
                "<id>: '{}' is on the machine of {there} too; ids may repeat only without a dot",
                id.text
            );
            problems.push(component.warning(id.line, text));
        }
        let is_theirs = |other: &Component| id.text == format!("{}.{}", other.id.text, theirs.node);
        if other.components.iter().any(is_theirs) {
            let text = format!("<id>: '{}' is what the mesh calls a component of {there}", id.text);
            problems.push(component.warning(id.line, text));
        }
    }
    problems
}
