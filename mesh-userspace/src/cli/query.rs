use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    Failure,
    args::{BackendCommand, BeatArgs, EventsArgs, LedgerCommand, Query, ServiceCommand, SourceCommand, Target, Which},
    output::{Format, print, print_line},
    tables,
};
use crate::{
    api::{Client, ClientError},
    control::{
        BackendSpec, explaining,
        view::{BackendView, Beat},
    },
};

/// Asks, prints to standard output, complains to standard error; the exit code says how it went.
pub fn answer(query: &Query, target: &Target) -> ExitCode {
    let asked = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(execute(query, target, &mut io::stdout().lock())),
        Err(e) => Err(Failure { code: Failure::ERROR, message: format!("can't start: {e}"), remedy: String::new() }),
    };
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mesh: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Asks the daemon that `target` names and prints its answer to `out`.
pub async fn execute(query: &Query, target: &Target, out: &mut impl Write) -> Result<(), Failure> {
    let client = Client::new(target.socket());
    match ask(query, &client, target, out).await {
        // Whoever reads has enough.
        Err(Trouble::Print(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Trouble::Print(e)) => Err(e.into()),
        Err(Trouble::Client(e)) => Err(Failure::of(e, target)),
        Err(Trouble::Other(failure)) => Err(failure),
        Ok(()) => Ok(()),
    }
}

pub(super) enum Trouble {
    Client(ClientError),
    Print(io::Error),
    Other(Failure),
}

impl From<ClientError> for Trouble {
    fn from(e: ClientError) -> Self {
        Self::Client(e)
    }
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Print(e)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

async fn ask(query: &Query, client: &Client, target: &Target, out: &mut impl Write) -> Result<(), Trouble> {
    let format = target.output;
    match query {
        Query::Status => print(out, format, &client.status().await?, tables::status)?,
        Query::Service(command) => service(command, client, format, out).await?,
        Query::Backend(command) => backend(command, client, format, out).await?,
        Query::Source(SourceCommand::Ls) => print(out, format, &client.sources().await?, |sources, wide| tables::sources(sources, wide))?,
        Query::Ledger(LedgerCommand::Ls) => print(out, format, &client.moving().await?, |rows, _| tables::moving(rows.as_slice()))?,
        Query::Ledger(LedgerCommand::Stats) => print(out, format, &client.ledger().await?, |ledger, _| tables::ledger(ledger))?,
        Query::Events(args) => events(args, client, format, out).await?,
        Query::Reload => {
            client.reload().await?;
            done(out, format, "configuration reloaded")?;
        }
        Query::Plan(args) => super::plan::execute(args, client, format, out).await?,
        Query::Explain(args) => print(out, format, &client.explain(&args.packet()).await?, |view, _| explaining::in_words(view))?,
    }
    Ok(())
}

async fn service(command: &ServiceCommand, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    match command {
        ServiceCommand::Ls => print(out, format, &client.services().await?, |services, wide| tables::services(services, wide))?,
        ServiceCommand::Show { service } => {
            let view = client.service(service).await?;
            // The table shows the backends as well; as data each thing has its own query.
            let backends = if format.is_data() { Vec::new() } else { client.backends(Some(service)).await? };
            print(out, format, &view, |view, wide| tables::service(view, &backends, wide))?;
        }
        ServiceCommand::Add(add) => {
            let view = client.add_service(&add.service, &add.spec()?).await?;
            print(out, format, &view, |view, _| format!("service {} added: {} by {}\n", view.name, tables::vip(view), view.mode))?;
        }
        ServiceCommand::Rm { service } => {
            client.remove_service(service).await?;
            done(out, format, &format!("service {service} removed"))?;
        }
    }
    Ok(())
}

async fn backend(command: &BackendCommand, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    match command {
        BackendCommand::Ls { service } => {
            let backends = client.backends(service.as_ref()).await?;
            print(out, format, &backends, |backends, wide| tables::backends(backends, wide))?;
        }
        BackendCommand::Show(Which { service, backend }) => print(out, format, &client.backend(service, backend).await?, tables::backend)?,
        BackendCommand::Add {
            service,
            address,
            weight,
            name,
            zone,
            capacity,
            backup,
            max_connections,
            max_connection_rate,
            quic_server_id,
        } => {
            let weight = weight.map(|w| i64::from(w).into());
            let (name, zone, capacity) = (name.clone(), zone.clone(), capacity.map(Into::into));
            let spec = BackendSpec {
                address: address.clone().into(),
                port: None,
                weight,
                name,
                zone,
                capacity,
                backup: backup.map(Into::into),
                max_connections: max_connections.map(Into::into),
                max_connection_rate: max_connection_rate.map(Into::into),
                quic_server_id: quic_server_id.map(Into::into),
            };
            changed(out, format, &client.add_backend(service, &spec).await?, "added")?;
        }
        BackendCommand::Rm(Which { service, backend }) => {
            client.remove_backend(service, backend).await?;
            done(out, format, &format!("{service}: backend {backend} removed"))?;
        }
        BackendCommand::Drain(args) => super::drain::execute(args, client, format, out).await?,
        BackendCommand::Drains { service } => super::drain::list(service.as_ref(), client, format, out).await?,
        BackendCommand::Undrain(Which { service, backend }) => {
            changed(out, format, &client.drain(service, backend, false).await?, "takes part again")?;
        }
        BackendCommand::Heartbeat(BeatArgs { which: Which { service, backend }, leave: true, .. }) => {
            client.leave(service, backend).await?;
            done(out, format, &format!("{service}: backend {backend} has taken its leave"))?;
        }
        BackendCommand::Heartbeat(args) => {
            let Which { service, backend } = &args.which;
            let (ttl, load, failing, weight, name) = (args.ttl, args.load, args.failing, args.weight, args.name.clone());
            let beat = Beat { ttl, load, failing, weight, name, zone: None };
            changed(out, format, &client.beat(service, backend, &beat).await?, "was heard")?;
        }
        BackendCommand::Weight { which: Which { service, backend }, weight } => {
            changed(out, format, &client.set_weight(service, backend, *weight).await?, &format!("has weight {weight}"))?;
        }
    }
    Ok(())
}

async fn events(args: &EventsArgs, client: &Client, format: Format, out: &mut impl Write) -> Result<(), Trouble> {
    if !args.follow {
        let events = client.events(args.since).await?;
        return Ok(print(out, format, &events, |events, _| events.iter().map(tables::event).collect())?);
    }
    let mut stream = client.follow(args.since).await?;
    while let Some(event) = stream.next().await? {
        print_line(out, format, &event, tables::event)?;
    }
    Err(Failure { code: Failure::UNREACHABLE, message: "the daemon stopped".into(), remedy: String::new() }.into())
}

pub(super) fn changed(out: &mut impl Write, format: Format, view: &BackendView, how: &str) -> io::Result<()> {
    print(out, format, view, |view, _| format!("{}: backend {} {how} ({})\n", view.service, tables::backend_name(view), view.state))
}

/// Where the answer has nothing to show.
fn done(out: &mut impl Write, format: Format, message: &str) -> io::Result<()> {
    print(out, format, &serde_json::json!({ "done": message }), |_, _| format!("{message}\n"))
}
