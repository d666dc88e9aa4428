//! Temporary.
fn main() -> std::process::ExitCode {
    let mut config = jidmesh::config::Config::embedded();
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == "-c").unwrap();
    let text = std::fs::read_to_string(&args[at + 1]).unwrap();
    let get = |s: &str, tag: &str| s.split(&format!("<{tag}>")).nth(1).map(|r| r.split('<').next().unwrap().to_owned());
    let local = text.split("<local>").nth(1).unwrap().to_owned();
    config.local = vec![format!("{}:{}", get(&local, "ip").unwrap(), get(&local, "port").unwrap()).parse().unwrap()];
    if let Some(g) = get(&text, "grace") { config.grace_ms = g.parse::<u64>().unwrap() * 1000; }
    if let Some(m) = text.split("<metrics>").nth(1) { config.metrics = format!("{}:{}", get(m, "ip").unwrap(), get(m, "port").unwrap()).parse().ok(); }
    if let Some(a) = get(&text, "admin") { config.admin = Some(a.into()); }
    if let Some(n) = text.split("shards='").nth(1) { config.tuning.shards = jidmesh::config::Shards::Count(n.split('\'').next().unwrap().parse().unwrap()); }
    jidmesh::shell::run(config, None)
}
