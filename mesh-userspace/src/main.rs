//! The daemon and the command line in one binary: their version is that of the loaded program.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use mesh::{
    agent,
    cli::{
        self, AgentArgs, CheckArgs, Cli, Command, DetachArgs, Query, RunArgs, Target,
        documents::{self, ManArgs},
    },
    config::{self, Loaded},
    control, logging, priority,
    privilege::{self, Opener},
};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let Cli { target, command } = Cli::parse();
    let result = match command {
        Command::Run(args) => run(args),
        Command::Check(args) => check(&args),
        Command::Detach(args) => detach(&args, &target),
        Command::Agent(args) => serve_as_backend(args),
        Command::Config(command) => documents::configuration(&command).map(|text| say(text.as_bytes())).map_err(Into::into),
        Command::Completions(args) => {
            say(&documents::completions(args.shell));
            Ok(())
        }
        Command::Man(args) => man(&args),
        Command::Query(query) => return ask(&query, &target),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    // Before any other thread is made, so that all are without what only the start needs.
    let opener = Opener::spawn()?;
    let allowed = priority::allow();
    let kept = privilege::keep_only(&privilege::needed())?;
    let loaded = config::load(&args.config)?;
    logging::start(&loaded.config.log, args.log_format);
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    log::info!("capabilities that stay after the start: {}", privilege::names(&kept));
    // This thread and the next two carry a failure on to the tables; it is only at the others' cost if they are late.
    if let Err(error) = allowed.and_then(|()| priority::prompt()) {
        log::debug!("the daemon's threads wait like any others: {error}; it would take CAP_SYS_RESOURCE at the start");
    }
    // Two threads: one plans and publishes, the other answers requests and reads netlink meanwhile. Health checks have a thread of their own.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(prompt)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(control::run(args.config, loaded, opener));
    runtime.shutdown_background();
    result
}

/// What can't be had was told of by the main thread.
fn prompt() {
    let _ = priority::prompt();
}

fn serve_as_backend(args: AgentArgs) -> Result<()> {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("mesh", log::LevelFilter::Info)
        .parse_default_env()
        .init();
    let AgentArgs { config, vips, interfaces, second_chance, netns } = args;
    if let Some(netns) = netns {
        enter(&netns).with_context(|| format!("failed to enter the network namespace {}", netns.display()))?;
    }
    Ok(small_runtime()?.block_on(agent::run(agent::Options { config, vips, interfaces, second_chance }))?)
}

/// All threads that are begun from here on are in this network namespace, as this one is.
fn enter(netns: &Path) -> Result<()> {
    Ok(setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?)
}

fn check(args: &CheckArgs) -> Result<()> {
    let Loaded { config, warnings } = config::load(&args.config)?;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let backends: usize = config.services.values().map(|s| s.backends.len()).sum();
    let (interfaces, services) = (config.interfaces.len(), config.services.len());
    let line = format!("{}: good: {interfaces} interfaces, {services} services, {backends} backends\n", args.config.display());
    say(line.as_bytes());
    Ok(())
}

fn man(args: &ManArgs) -> Result<()> {
    match &args.directory {
        Some(directory) => documents::man_pages(directory).with_context(|| format!("failed to write man pages to {}", directory.display())),
        None => {
            say(&documents::man_page()?);
            Ok(())
        }
    }
}

fn say(text: &[u8]) {
    // Nobody has to be there to read it.
    let _ = io::stdout().write_all(text);
}

fn detach(args: &DetachArgs, target: &Target) -> Result<()> {
    env_logger::Builder::new().filter_level(log::LevelFilter::Warn).parse_default_env().init();
    let (instance, bpffs, state_dir) = match &args.config {
        Some(path) => {
            let config = config::load(path)?.config;
            (config.instance, config.bpffs, config.state_dir)
        }
        None => (target.instance.clone(), args.bpffs.clone(), args.state_dir.clone()),
    };
    let done = small_runtime()?.block_on(control::detach(&instance, &bpffs, &state_dir))?;
    let _ = writeln!(io::stdout(), "{done}");
    Ok(())
}

fn ask(query: &Query, target: &Target) -> ExitCode {
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mesh: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::execute(query, target, &mut io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mesh: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn small_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("failed to start the runtime")
}
