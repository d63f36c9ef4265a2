//! From steps to C-APDUs.

use super::{
    ANY_PROFILE, Action, Applet, COMMANDS_MAX, CONTENT_BYTES_MAX, Content, ContentError, FileUpdate,
    HexBytes, OnFailure, STEPS_MAX, Step, StepError, VARIANTS_MAX,
};
use simtide_protocol::apdu::Command;
use simtide_protocol::ids::Aid;
use simtide_protocol::profile::{Application, ApplicationKind, FilePath, Profile, Structure};
use simtide_protocol::script::SCRIPT_BYTES_MAX;
use simtide_protocol::{ram, rfm};

/// Bytes that every script leaves free for the mark at both ends and the date of the next poll.
pub const RESERVED_BYTES: usize = 128;

/// A content made ready for the cards of one profile. It depends on nothing else: make it once and share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Whether running it twice does no harm.
    pub repeatable: bool,
    /// At least one, at most [`STEPS_MAX`].
    pub steps: Vec<PreparedStep>,
}

/// One step for the cards of one profile.
#[derive(Clone, PartialEq, Eq)]
pub struct PreparedStep {
    /// Which application gets the scripts.
    pub application: Aid,
    /// What that application is.
    pub kind: ApplicationKind,
    /// The directory in which its scripts start, where that is not the MF.
    pub root: Option<FilePath>,
    /// C-APDUs, cut into scripts that fit one message each; at least one script with one command.
    pub scripts: Vec<Vec<Vec<u8>>>,
    /// The first script deletes what a card need not have: that it is not there is no failure.
    pub first_may_find_nothing: bool,
    /// What follows a failure.
    pub failing: Failing,
}

/// What follows the failure of a prepared step.
#[derive(Clone, PartialEq, Eq)]
pub enum Failing {
    /// The campaign has failed on this card.
    Stop,
    /// The next step runs.
    GoOn,
    /// These C-APDUs run first, as one script.
    Undo(Vec<Vec<u8>>),
}

impl std::fmt::Debug for PreparedStep {
    /// Counts only: commands carry keys and personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreparedStep({:?} {}, {} scripts)", self.kind, self.application, self.scripts.len())
    }
}

impl Content {
    /// Refuses what cannot run on the cards of these profiles: all that the platform knows.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do about it.
    pub fn check(&self, profiles: &[&Profile]) -> Result<(), ContentError> {
        if self.variants.values().all(Vec::is_empty) {
            return Err(ContentError::Empty);
        }
        if self.variants.len() > VARIANTS_MAX {
            return Err(ContentError::Variants(self.variants.len()));
        }
        for (variant, steps) in &self.variants {
            let known = |profile: &&Profile| profile.name.as_str() == variant;
            if variant != ANY_PROFILE && !profiles.iter().any(known) {
                let known: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
                return Err(ContentError::Profile { found: variant.clone(), known: known.join(", ") });
            }
            if steps.len() > STEPS_MAX {
                return Err(ContentError::Steps { variant: variant.clone(), found: steps.len() });
            }
        }
        let size = self.variants.values().flatten().map(Step::size).sum();
        if size > CONTENT_BYTES_MAX {
            return Err(ContentError::TooLarge(size));
        }
        profiles.iter().try_for_each(|profile| self.prepare(profile).map(drop))
    }

    /// Makes the C-APDUs for the cards of a profile; `None` where there is nothing to do for them.
    ///
    /// # Errors
    /// The first step that cannot run there.
    pub fn prepare(&self, profile: &Profile) -> Result<Option<Prepared>, ContentError> {
        self.prepare_cut(profile, profile.scp81.script_bytes_max)
    }

    /// The same in scripts of at most so many bytes.
    ///
    /// # Errors
    /// The first step that cannot run there.
    pub fn prepare_cut(
        &self,
        profile: &Profile,
        script_bytes_max: u32,
    ) -> Result<Option<Prepared>, ContentError> {
        let limit = (script_bytes_max as usize).min(SCRIPT_BYTES_MAX).saturating_sub(RESERVED_BYTES);
        let prepared = self.steps(profile.name.as_str()).iter().zip(1..).map(|(step, number)| {
            step.prepare(profile, limit).map_err(|problem| ContentError::Step {
                step: number,
                profile: profile.name.as_str().to_owned(),
                problem,
            })
        });
        let steps = prepared.collect::<Result<Vec<_>, _>>()?;
        Ok((!steps.is_empty()).then_some(Prepared { repeatable: self.repeatable, steps }))
    }
}

impl Step {
    /// Bytes that it carries.
    fn size(&self) -> usize {
        let sum = |commands: &[HexBytes]| commands.iter().map(|command| command.0.len()).sum::<usize>();
        let undo = if let OnFailure::Undo(commands) = &self.on_failure { sum(commands) } else { 0 };
        undo + match &self.action {
            Action::FileUpdate(update) => update.data.0.len(),
            Action::AppletInstall(applet) | Action::AppletReplace(applet) => applet.code.0.len(),
            Action::AppletDelete(_) => 16,
            Action::OsPatch(script) | Action::Script(script) => sum(&script.commands),
        }
    }

    /// In scripts of at most `limit` bytes.
    fn prepare(&self, profile: &Profile, limit: usize) -> Result<PreparedStep, StepError> {
        let application = self.application(profile)?;
        let root = application.root.as_ref().filter(|root| root.fids().len() > 1);
        let scripts = match &self.action {
            Action::FileUpdate(update) => update.scripts(profile, root, limit)?,
            Action::AppletInstall(applet) => cut(applet.commands()?, limit)?,
            Action::AppletReplace(applet) => {
                let deletion = vec![ram::delete(&applet.load_file, true)];
                [vec![deletion], cut(applet.commands()?, limit)?].concat()
            }
            Action::AppletDelete(deletion) => vec![vec![ram::delete(&deletion.aid, deletion.related)]],
            Action::OsPatch(script) => cut(checked(&script.commands)?, limit)?,
            Action::Script(script) => vec![whole(checked(&script.commands)?, limit)?],
        };
        let commands = scripts.iter().map(Vec::len).sum();
        if commands > COMMANDS_MAX {
            return Err(StepError::TooManyCommands(commands));
        }
        let failing = match &self.on_failure {
            OnFailure::Stop => Failing::Stop,
            OnFailure::GoOn => Failing::GoOn,
            OnFailure::Undo(undo) => Failing::Undo(whole(checked(undo)?, limit)?),
        };
        Ok(PreparedStep {
            application: application.aid,
            kind: application.kind,
            root: root.cloned(),
            scripts,
            first_may_find_nothing: matches!(self.action, Action::AppletReplace(_)),
            failing,
        })
    }

    /// The application that gets the step: the named one, or the one that the action belongs to.
    fn application<'a>(&self, profile: &'a Profile) -> Result<&'a Application, StepError> {
        if let Some(tar) = self.tar {
            return profile.application_by_tar(tar).ok_or_else(|| {
                let known: Vec<_> = profile.applications.iter().map(|known| known.tar.to_string()).collect();
                StepError::UnknownApplication { found: tar, known: known.join(", ") }
            });
        }
        match &self.action {
            Action::FileUpdate(update) => {
                let below = |application: &&Application| {
                    application.kind == ApplicationKind::RfmUsim
                        && application
                            .root
                            .as_ref()
                            .is_some_and(|root| update.path.fids().starts_with(root.fids()))
                };
                let of_root = profile.applications.iter().find(below);
                of_root
                    .or_else(|| profile.application(ApplicationKind::RfmUicc))
                    .ok_or(StepError::NoApplication("files (rfm-uicc, rfm-usim)"))
            }
            Action::AppletInstall(_) | Action::AppletReplace(_) | Action::AppletDelete(_) => {
                profile.application(ApplicationKind::Isd).ok_or(StepError::NoApplication("applets (isd)"))
            }
            Action::OsPatch(_) => profile
                .application(ApplicationKind::VendorPatch)
                .ok_or(StepError::NoApplication("operating-system patches (vendor-patch)")),
            Action::Script(_) => Err(StepError::MissingTar),
        }
    }
}

impl FileUpdate {
    fn scripts(
        &self,
        profile: &Profile,
        root: Option<&FilePath>,
        limit: usize,
    ) -> Result<Vec<Vec<Vec<u8>>>, StepError> {
        if self.record.is_some() && self.offset != 0 {
            return Err(StepError::OffsetAndRecord);
        }
        self.check_structure(profile)?;
        let updates = match self.record {
            Some(record) => vec![rfm::update_record(record, &self.data.0)?],
            None => rfm::update_binary(self.offset, &self.data.0)?,
        };
        let select = rfm::select(&self.path, root);
        let each = limit.saturating_sub(size_of(&select));
        // Every script starts anew at the application's root, so each one selects the file.
        let scripts = cut(updates, each)?;
        Ok(scripts.into_iter().map(|script| [vec![select.clone()], script].concat()).collect())
    }

    /// Compares with the file as the profile describes it; of a file that it does not describe nothing is known.
    fn check_structure(&self, profile: &Profile) -> Result<(), StepError> {
        let Some(file) = profile.file(&self.path) else { return Ok(()) };
        let wrong = |structure: String, advice| {
            Err(StepError::Structure { path: self.path.clone(), structure, advice })
        };
        let data = self.data.0.len();
        match (file.structure, self.record) {
            (Structure::Directory | Structure::Application { .. }, _) => {
                wrong("a directory".into(), "name a file in it")
            }
            (Structure::Transparent { size }, Some(_)) => {
                wrong(format!("transparent, {size} bytes"), "give \"offset\" instead of \"record\"")
            }
            (Structure::Transparent { size }, None)
                if usize::from(self.offset) + data > usize::from(size) =>
            {
                wrong(format!("transparent, {size} bytes"), "the data reach beyond its end: shorten them")
            }
            (Structure::Transparent { .. }, None) => Ok(()),
            (
                Structure::LinearFixed { records, record_size } | Structure::Cyclic { records, record_size },
                record,
            ) => {
                let described = || format!("a file of {records} records of {record_size} bytes");
                match record {
                    None => wrong(described(), "give \"record\", from 1"),
                    Some(record) if record > records => {
                        wrong(described(), "it has no such record: count from 1")
                    }
                    Some(_) if data != usize::from(record_size) => {
                        wrong(described(), "the data have to fill a record: fill them up with FF")
                    }
                    Some(_) => Ok(()),
                }
            }
        }
    }
}

impl Applet {
    fn commands(&self) -> Result<Vec<Vec<u8>>, StepError> {
        if !matches!(self.privileges.0.len(), 1 | 3) {
            return Err(StepError::Privileges(self.privileges.0.len()));
        }
        let mut commands = vec![ram::install_for_load(&self.load_file, None, &self.load_parameters.0)?];
        commands.extend(ram::load(&self.code.0)?);
        commands.push(ram::install(&ram::Installation {
            load_file: &self.load_file,
            module: &self.module,
            instance: &self.instance,
            privileges: &self.privileges.0,
            parameters: &self.install_parameters.0,
        })?);
        Ok(commands)
    }
}

/// Takes C-APDUs from outside.
fn checked(commands: &[HexBytes]) -> Result<Vec<Vec<u8>>, StepError> {
    if commands.is_empty() {
        return Err(StepError::NoCommands);
    }
    if commands.len() > COMMANDS_MAX {
        return Err(StepError::TooManyCommands(commands.len()));
    }
    for (command, number) in commands.iter().zip(1..) {
        Command::parse(&command.0).map_err(|problem| StepError::Command { number, problem })?;
    }
    Ok(commands.iter().map(|command| command.0.clone()).collect())
}

/// What a command takes in an expanded script, with tag and length.
fn size_of(command: &[u8]) -> usize {
    command.len() + 4
}

/// Commands as one script.
fn whole(commands: Vec<Vec<u8>>, limit: usize) -> Result<Vec<Vec<u8>>, StepError> {
    let found = commands.iter().map(|command| size_of(command)).sum();
    if found > limit { Err(StepError::ScriptTooLarge { found, limit }) } else { Ok(commands) }
}

/// Commands as scripts of at most `limit` bytes each.
fn cut(commands: Vec<Vec<u8>>, limit: usize) -> Result<Vec<Vec<Vec<u8>>>, StepError> {
    let mut scripts = vec![Vec::new()];
    let mut filled = 0;
    for command in commands {
        let size = size_of(&command);
        if size > limit {
            return Err(StepError::ScriptTooLarge { found: size, limit });
        }
        filled += size;
        if filled > limit {
            scripts.push(Vec::new());
            filled = size;
        }
        if let Some(script) = scripts.last_mut() {
            script.push(command);
        }
    }
    Ok(scripts)
}
