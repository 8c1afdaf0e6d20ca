//! Any text as a configuration: it is refused with the places of what is wrong, or it is planned and every slot has an owner that there is.

use std::{path::Path, time::Instant};

use mesh::{
    config::{self, ConfigError, Diagnostic, placed::Syntax},
    control::Core,
    plan::Plan,
    state::State,
    table::NONE,
};

/// `T` and a text in TOML, or any other byte and one in YAML, of which JSON is a part.
pub fn run(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Keys may stand in files of their own, and these have no end.
    if ["/dev/", "/proc/"].iter().any(|place| text.contains(place)) {
        return;
    }
    let syntax = if *kind == b'T' { Syntax::Toml } else { Syntax::Yaml };
    match config::parse(text, syntax, Path::new("/nowhere/mesh.yaml")) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| check_place(text, warning));
            let (mut core, _) = Core::new(loaded.config, State::default());
            core.replan(1, Instant::now());
            check_plan(core.plan());
        }
        Err(ConfigError::Invalid(findings)) => {
            assert!(!findings.is_empty(), "refused, and nobody says why");
            findings.iter().for_each(|finding| check_place(text, finding));
        }
        Err(error) => panic!("a text is not a file: {error}"),
    }
}

/// What is planned holds together.
pub fn check_plan(plan: &Plan) {
    for service in &plan.services {
        let (table, members) = (&service.table, service.members.len());
        assert_eq!(table.owner.len(), 1 << table.log2_slots, "{}", service.name);
        assert_eq!(table.secondary.len(), table.owner.len(), "{}", service.name);
        let sound = |index: &u16| *index == NONE || usize::from(*index) < members;
        assert!(table.owner.iter().chain(&table.secondary).all(sound), "{}: a slot of a backend that is not there", service.name);
        let vacant = table.owner.iter().all(|owner| *owner == NONE);
        assert!(!service.no_backends || vacant, "{}: slots of nobody", service.name);
    }
}

fn check_place(text: &str, finding: &Diagnostic) {
    assert!(!finding.message.is_empty(), "a finding without words");
    let Some(place) = &finding.place else { return };
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&place.line), "line {} of {lines}: {finding}", place.line);
    assert!(place.column >= 1 && place.width >= 1, "{finding}");
}
