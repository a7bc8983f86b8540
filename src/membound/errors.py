"""Every error that a user can do something about. The command prints it as one line and ends with exit status 2.

    try:
        membound.run(["linear:n=4096"])
    except membound.MemboundError as error:
        print(error)

Errors that many modules raise are defined here, the others where they are raised:

    MemboundError
    ├── BackendUnavailable      the runtime or the device is not there; carries the command that would help
    ├── CacheRefused            kernels.cpu.kernel_cache: others may write to the folder of compiled kernels
    ├── CeilingError            bench.ceilings.patterns: no memory for a ceiling, or a kernel whose result is wrong
    ├── CeilingsMissing         results.exchange.ceilings: a named run cannot serve as a limit
    ├── ClaimError              bench.claim.plan: a claim cannot be tested as asked
    ├── CompanionError          bench.run.companion: what should be busy beside a run cannot be
    ├── CompareError            results.compare: the two sides cannot be compared
    ├── CompileError            kernels.cuda.compile: a CUDA kernel cannot be compiled
    ├── CostError               results.predict.prices: a price is missing, or an assumption is impossible
    ├── EconomicsError          bench.planning.economics: a work cannot be priced
    ├── EnvironmentFailed       bench.environments.build: an environment cannot be made
    ├── ExperimentsError        results.claim.experiments: a register of experiments is malformed
    ├── ExportError             kernels.export: a model folder cannot be written
    ├── ExportFormatError       results.exchange.exports: no such format to write
    ├── FallbackRefused         the runtime answered with something other than what was asked for
    ├── FleetError              bench.fleet.fleet_error: a fleet cannot be measured as asked
    ├── GateError               bench.gate.trees: a base or a head cannot be had as asked
    ├── HardwareError           results.predict.catalogue: a device, a figure or a file of devices is not as it must be
    ├── HereError               bench.planning.here: a run cannot serve a prediction
    ├── LoadError               bench.serving.schedule: a load cannot be drawn, or a server takes none of it
    ├── MarksMissing            results.report.markdown: a document lacks the marks to write between
    ├── MeasuredError           bench.planning.measured: a file of measured rows is malformed
    ├── ModelError              kernels.model: a model is unknown, or its folder cannot be taken
    ├── NameTwice               results.exchange.dashboards: two exported cases have one name
    ├── NoReport                results.exchange.llm_d_report: the rows are not of one load
    ├── NotPaired               results.pairs: base and head were not measured in turn
    ├── ObservationError        results.claim.observation: a line of a claim file cannot be read
    ├── OptionError             bench.planning.choice: an option that this machine cannot serve
    ├── ParquetUnavailable      results.exchange.parquet: the library that reads and writes Parquet is missing
    ├── PlacementError          bench.machine.placement: works cannot be run, or their memory had, where asked
    ├── PlanError               bench.planning.suites: a run cannot be done as asked
    ├── ProcessEnded            a process that the runtime started has ended; becomes a `crashed` row
    ├── ProcessSilent           a process that the runtime started gives no answer; becomes a `timeout` row
    ├── RemoteUnavailable       results.exchange.remote_file: what writes to another file system is not installed
    ├── ReportError             bench.report.write: a report cannot be written
    ├── ReportUnavailable       results.report.drawing: the libraries that draw charts are missing
    ├── RowError                results.row: a row cannot be read
    ├── SloError                results.serving.slo: a service level cannot be read
    ├── SpecError               kernels.operations: a work's spec is malformed
    ├── StoreError              results.run_files: a row file or its folder cannot be read or written
    ├── UnknownBackend          backends.registry: no backend of that name
    ├── UnknownEngine           backends.serving: no engine of that name can be started
    ├── UnmetPlan               bench.planning.plans: nothing serves a demand within its limits
    └── Unsupported             the runtime cannot do this work; becomes an `unsupported` row
"""


class MemboundError(Exception):
    """The root of all errors that a user can do something about."""


class BackendUnavailable(MemboundError):
    """The runtime or the device is not there. `remedy` is a command that would help, or ''."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Unsupported(MemboundError):
    """The runtime turned out, while preparing, to be unable to do this work."""


class ProcessEnded(MemboundError):
    """A process that the runtime had started to work for it has ended."""


class ProcessSilent(MemboundError):
    """A process that the runtime had started to work for it gives no answer within its limit."""


class FallbackRefused(MemboundError):
    """The runtime silently chose another device, dtype or provider than was asked for."""
