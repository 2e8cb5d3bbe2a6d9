//! Hostile components.

use anyhow::{Context as _, Result};

use super::{Adversary, Scene, Setup, reload::Reload, setup::section};
use crate::hostile_components::{Kind, compile_bomb, kinds, refused};

/// Components that load and then misbehave, called in turn by one client.
struct Kinds {
    name: String,
    kinds: Vec<Kind>,
    key: String,
}

/// Number of files with a compile bomb, of different bytes.
const BOMBS: usize = 16;

/// Number of tenants with a compile bomb at the start.
const BOMBS_AT_START: usize = 4;

/// Number of imports of a component that has very many.
const IMPORTS: usize = 20_000;

pub(super) fn all(together: bool) -> Result<Vec<Box<dyn Adversary>>> {
    let new = |name: &str, kinds: Vec<Kind>| -> Box<dyn Adversary> {
        Box::new(Kinds { name: format!("component: {name}"), kinds, key: String::new() })
    };
    let mut all = match together {
        true => vec![new("every kind", kinds()?)],
        false => kinds()?.into_iter().map(|kind| new(kind.name, vec![kind])).collect(),
    };
    all.push(Box::new(BombsAtStart));
    all.push(Reload::boxed("component: compile bomb by reload", |setup| bombs(setup, BOMBS)));
    all.push(Reload::boxed("component: thousands of imports by reload", |setup| {
        let imports: String =
            (0..IMPORTS).map(|number| format!("(import \"hostile:imports/number-{number}\" (instance))")).collect();
        write(setup, "imports", &wat::parse_str(format!("(component {imports})"))?).map(|section| vec![section])
    }));
    all.push(Reload::boxed("component: each refused kind by reload", |setup| {
        let numbered = refused()?.into_iter().enumerate();
        numbered.map(|(number, kind)| write(setup, &format!("refused-{number}"), &kind.component)).collect()
    }));
    Ok(all)
}

/// Writes a component, and returns the section of a tenant that has it.
fn write(setup: &Setup, name: &str, component: &[u8]) -> Result<String> {
    setup.tenants.write(&format!("{name}.wasm"), component)?;
    Ok(section(name, &format!("component = \"{name}.wasm\"")))
}

/// Writes so many compile bombs, none with the bytes of another, and returns a section for each.
fn bombs(setup: &Setup, count: usize) -> Result<Vec<String>> {
    let bomb = compile_bomb()?;
    (0..count)
        .map(|number| {
            // A custom section with an empty name and one byte.
            let other = [bomb.as_slice(), &[0, 2, 0, u8::try_from(number)?]].concat();
            write(setup, &format!("bomb-{number}"), &other)
        })
        .collect()
}

impl Adversary for Kinds {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        self.key = setup.tenants.key("hostile")?;
        for (number, kind) in self.kinds.iter().enumerate() {
            let name = format!("kind-{number}");
            setup.tenants.write(&format!("{name}.wasm"), &kind.component)?;
            setup.sections +=
                &section(&name, &format!("component = \"{name}.wasm\"\ndatabase = \"sqlite:hostile.db\""));
        }
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let clients = |number| scene.client(&format!("/kind-{number}"), &self.key);
        let mut clients: Vec<_> = (0..self.kinds.len()).map(clients).collect();
        let mut times = Vec::new();
        // Each kind once at least.
        loop {
            for (client, kind) in clients.iter_mut().zip(&self.kinds) {
                let answered = scene.create_once(client, kind.statuses);
                times.extend(answered.context(kind.name)?.map(|(_, time)| time));
            }
            if scene.is_over() {
                return Ok(times);
            }
        }
    }
}

/// Tenants whose components are compile bombs when the server starts, and are loaded again and again.
struct BombsAtStart;

impl Adversary for BombsAtStart {
    fn name(&self) -> String {
        "component: compile bombs at the start".into()
    }

    fn prepare(&mut self, setup: &mut Setup) -> Result<()> {
        setup.top += "compile.time = \"2s\"\n";
        setup.sections += &bombs(setup, BOMBS_AT_START)?.concat();
        Ok(())
    }

    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        while !scene.is_over() {
            times.push(scene.reload("")?.0);
        }
        Ok(times)
    }
}
