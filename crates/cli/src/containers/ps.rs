//! `ps`: the table of containers.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    human,
    table::{Table, cut},
};
use clap::{Args, ValueEnum};
use container::engine::{Inspect, Status};
use jiff::Timestamp;
use std::{thread, time::Duration};

/// `ps`
#[derive(Args, Debug)]
pub struct PsArguments {
    /// Those that do not run as well
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// name=PART, id=START, status=created|starting|running|paused|exited, label=KEY[=VALUE]
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Full ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show it again every two seconds; with --json one document a line
    #[arg(long)]
    watch: bool,
    /// How to print it
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Name,
}

/// What `--filter` keeps. Several values of one key widen, but for labels; several keys narrow.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    names: Vec<String>,
    ids: Vec<String>,
    statuses: Vec<String>,
    labels: Vec<(String, Option<String>)>,
}

const STATUSES: [&str; 5] = ["created", "starting", "running", "paused", "exited"];

/// Prints the containers, newest first.
pub fn ps(context: &mut Context<'_, '_, '_>, arguments: &PsArguments) -> Result<Code> {
    let filter = Filter::parse(&arguments.filter).map_err(|problem| {
        Failure::new(Code::USAGE, format!("--filter: {problem}")).next("jdos container ps --help")
    })?;
    let all = arguments.all || !filter.statuses.is_empty();
    loop {
        let survey = context.engine.survey().map_err(|error| Failure::from_engine(&error))?;
        for (id, error) in &survey.unreadable {
            let failure = Failure::from_engine(error);
            let why = failure.why.first().map(|why| format!(": {why}")).unwrap_or_default();
            let next = format!("; remove it with jdos container rm --force {}", id.short());
            context.printer.warnings(&[format!("{} is left out: {}{why}{next}", id.short(), failure.what)]);
        }
        let mut containers = survey.containers;
        containers.retain(|container| {
            let ended = matches!(container.status, Status::Created | Status::Exited);
            (all || !ended) && filter.keeps(container)
        });
        print(context, arguments, &containers)?;
        if !arguments.watch {
            return Ok(Code::DONE);
        }
        context.printer.flush()?;
        thread::sleep(Duration::from_secs(2));
    }
}

fn print(context: &mut Context<'_, '_, '_>, arguments: &PsArguments, containers: &[Inspect]) -> Result<()> {
    if context.printer.json || arguments.format == Format::Json {
        return match arguments.watch {
            true => context.printer.document_line(&containers),
            false => context.printer.document(&containers),
        };
    }
    if arguments.watch && context.printer.live() {
        context.printer.text("\x1b[H\x1b[2J")?;
    }
    let text: String = match (arguments.quiet, arguments.format) {
        (true, _) => containers.iter().map(|container| format!("{}\n", id(container, arguments.no_trunc))).collect(),
        (_, Format::Name) => containers.iter().map(|container| format!("{}\n", container.name)).collect(),
        _ => table(containers, Timestamp::now(), arguments.no_trunc),
    };
    context.printer.text(&text)
}

fn id(container: &Inspect, full: bool) -> &str {
    if full { container.id.as_str() } else { container.id.short() }
}

fn table(containers: &[Inspect], now: Timestamp, full: bool) -> String {
    let mut table = Table::new(&["NAME", "ID", "IMAGE", "STATUS", "COMMAND", "IP", "PORTS"]);
    for container in containers {
        let command = command(container);
        let ports: Vec<_> = container
            .record
            .ports
            .iter()
            .map(|port| match port.host_ip {
                None => format!("{}->{}/{}", port.host_port, port.container_port, port.protocol),
                Some(ip) => format!(
                    "{}->{}/{}",
                    std::net::SocketAddr::new(ip, port.host_port),
                    port.container_port,
                    port.protocol
                ),
            })
            .collect();
        table.row([
            container.name.to_string(),
            id(container, full).to_owned(),
            container.record.image.as_ref().map(|image| image.name.clone()).unwrap_or_default(),
            status(container, now),
            if full { command } else { cut(&command, 32) },
            container.addresses.as_ref().map(|addresses| addresses.ipv4.to_string()).unwrap_or_default(),
            ports.join(", "),
        ]);
    }
    table.render()
}

/// The words of the command with single blanks between; words with blanks of their own in quotes.
fn command(container: &Inspect) -> String {
    let words = container.record.spec.process().as_ref().and_then(|process| process.args().as_ref());
    let quoted = |word: &String| match word.is_empty() || word.contains(char::is_whitespace) {
        true => format!("'{word}'"),
        false => word.clone(),
    };
    words.map(|words| words.iter().map(quoted).collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// `running 3m`, `exited (137) oom 2s ago`.
fn status(container: &Inspect, now: Timestamp) -> String {
    let for_how_long = |word: &str| match container.started_at {
        Some(start) => format!("{word} {}", human::since(start, now)),
        None => word.to_owned(),
    };
    match (container.status, container.exit) {
        (Status::Created, _) => format!("created {} ago", human::since(container.created_at, now)),
        (Status::Starting, _) => "starting".to_owned(),
        (Status::Running, _) => for_how_long("running"),
        (Status::Paused, _) => for_how_long("paused"),
        (Status::Exited, None) => "exited".to_owned(),
        (Status::Exited, Some(exit)) => {
            let code = exit.code.map_or_else(|| "?".to_owned(), |code| code.to_string());
            let oom = if exit.oom { " oom" } else { "" };
            format!("exited ({code}){oom} {} ago", human::since(exit.finished_at, now))
        }
    }
}

impl Filter {
    fn parse(texts: &[String]) -> std::result::Result<Self, String> {
        let mut filter = Self::default();
        for text in texts {
            match text.split_once('=') {
                Some(("name", part)) => filter.names.push(part.to_owned()),
                Some(("id", start)) => filter.ids.push(start.to_owned()),
                Some(("status", status)) if STATUSES.contains(&status) => filter.statuses.push(status.to_owned()),
                Some(("status", status)) => {
                    return Err(format!("`{status}` is not a status: expected one of {}", STATUSES.join(", ")));
                }
                Some(("label", label)) => filter.labels.push(match label.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (label.to_owned(), None),
                }),
                _ => return Err(format!("`{text}` is not understood: expected name=, id=, status= or label=")),
            }
        }
        Ok(filter)
    }

    fn keeps(&self, container: &Inspect) -> bool {
        let any = |wanted: &[String], test: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| test(wanted))
        };
        let status = match container.status {
            Status::Created => "created",
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Exited => "exited",
        };
        let label = |(key, value): &(String, Option<String>)| match container.record.labels.get(key) {
            Some(found) => value.as_ref().is_none_or(|value| value == found),
            None => false,
        };
        any(&self.names, &|part| container.name.as_str().contains(part))
            && any(&self.ids, &|start| container.id.as_str().starts_with(start))
            && any(&self.statuses, &|wanted| wanted == status)
            && self.labels.iter().all(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use container::{options::RuntimeKind, record::Record, record::Root, state::Addresses, state::Exit};
    use model::{ContainerId, NetworkMode};
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    const NOW: &str = "2026-02-01T12:00:00Z";

    fn container(name: &str, status: Status) -> Inspect {
        let id = ContainerId::from_random([0xab; 16]);
        let arguments = ["sh", "-c", "echo hello; sleep 1000000 # long"].map(String::from).to_vec();
        let process = ProcessBuilder::default().args(arguments).build().unwrap();
        let created_at: Timestamp = "2026-02-01T11:00:00Z".parse().unwrap();
        let record = Record {
            id: id.clone(),
            name: name.parse().unwrap(),
            named: true,
            created_at,
            root: Root::Owned,
            spec: SpecBuilder::default().process(process).build().unwrap(),
            default_seccomp: true,
            user: None,
            groups: Vec::new(),
            userns: None,
            network: NetworkMode::None,
            chown: Vec::new(),
            ports: model::PortMapping::parse_all("8080:80").unwrap(),
            ip: None,
            dns: Default::default(),
            manage_etc: true,
            interactive: false,
            remove: false,
            claimed: false,
            stop_signal: 15,
            stop_timeout: 10,
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            log: Default::default(),
            runtime: RuntimeKind::Jdos,
            image: None,
            own_volumes: Vec::new(),
        };
        Inspect {
            id,
            name: name.parse().unwrap(),
            created_at,
            status,
            pid: None,
            started_at: Some("2026-02-01T11:57:00Z".parse().unwrap()),
            exit: None,
            users: None,
            addresses: None,
            warnings: Vec::new(),
            cgroup: None,
            record,
        }
    }

    #[test]
    fn the_table() {
        let now = NOW.parse().unwrap();
        let mut running = container("web", Status::Running);
        running.addresses = Some(Addresses { ipv4: [10, 88, 0, 2].into(), ipv6: "fd00::2".parse().unwrap() });
        let (name, digest, ports) = ("web:1".to_owned(), "sha256:1".to_owned(), Vec::new());
        running.record.image = Some(container::options::ImageOrigin { name, digest, ports });
        let mut ended = self::container("job", Status::Exited);
        ended.record.ports = model::PortMapping::parse_all("[::1]:53:53/udp").unwrap();
        let finished = "2026-02-01T11:59:58Z".parse().unwrap();
        ended.exit = Some(Exit::from_wait_status(9, true, 0, finished));
        assert_eq!(
            table(&[running, ended], now, false),
            "\
NAME  ID            IMAGE  STATUS                   COMMAND                           IP         PORTS
web   abababababab  web:1  running 3m               sh -c 'echo hello; sleep 100000…  10.88.0.2  8080->80/tcp
job   abababababab  -      exited (137) oom 2s ago  sh -c 'echo hello; sleep 100000…  -          [::1]:53->53/udp
"
        );
    }

    #[test]
    fn statuses() {
        let now = NOW.parse().unwrap();
        let mut one = container("x", Status::Created);
        assert_eq!(status(&one, now), "created 60m ago");
        one.status = Status::Paused;
        assert_eq!(status(&one, now), "paused 3m");
        one.status = Status::Exited;
        assert_eq!(status(&one, now), "exited");
        one.exit = Some(Exit::from_wait_status(-1, false, 0, now));
        assert_eq!(status(&one, now), "exited (?) 0s ago");
    }

    #[test]
    fn filters_narrow_by_key_and_widen_by_value() {
        let web = container("web-1", Status::Running);
        let keeps = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filter::parse(&texts).unwrap().keeps(&web)
        };
        assert!(keeps(&[]) && keeps(&["name=web"]) && keeps(&["name=db", "name=eb-"]));
        assert!(!keeps(&["name=web", "status=exited"]) && keeps(&["status=exited", "status=running"]));
        assert!(keeps(&["label=tier"]) && keeps(&["label=tier=front"]) && !keeps(&["label=tier=back"]));
        assert!(!keeps(&["label=tier", "label=other"]));
        assert!(keeps(&["id=abab"]) && !keeps(&["id=b"]));
        for bad in ["status=gone", "name", "colour=red"] {
            assert!(Filter::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
