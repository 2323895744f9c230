"""System catalogs of a PostgreSQL, read so that nothing in the cluster can run meanwhile.

Whoever was superuser may have planted casts, operators and functions that a question of the
superuser's would call. `COPY <catalog> TO STDOUT` calls none: it plans nothing and compares
nothing. Where a catalog is too large to be read whole, the condition compares two values of one
built-in type, which is an exact match and leaves PostgreSQL no choice. Python 3.9+.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..backup.backends.postgres_sql import FIND_SUPERUSER
from ..backup.backends.psql import unescape
from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import sql_identifier

# Objects of initdb have smaller numbers.
FIRST_OF_USERS = 16384
SUPERUSER_OID = 10
# Bytes of the catalogs of one database that are read: an application makes as many tables as it
# likes, and the server's memory is for what serves.
MOST_BYTES = 200_000_000
_BUILTIN = f"< '{FIRST_OF_USERS}'"
_SYSTEM_SCHEMAS = (
    "(SELECT oid FROM pg_catalog.pg_namespace"
    " WHERE nspname IN ('pg_catalog', 'information_schema'))"
)
_MEMBER_RELATIONS = (
    "(SELECT objid FROM pg_catalog.pg_depend WHERE classid = '1259' AND deptype = 'e')"
)


@dataclass(frozen=True)
class Table:
    """A catalog, or a function that returns rows.

    A column is ``name`` or ``name:catalog``, the catalog that its numbers belong to.
    """

    columns: tuple[str, ...]
    where: str = ""
    since: int = 0  # major version that has it
    source: str = ""  # when it is no catalog of the same name

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return [column.partition(":")[0] for column in self.columns]

    def statement(self, name: str) -> str:
        """Return the COPY that reads it."""
        source = self.source or f"pg_catalog.{name}"
        columns = ", ".join(self.names())
        if not self.where and not source.endswith(")"):
            return f"COPY {source} ({columns}) TO STDOUT;"
        condition = f" WHERE {self.where}" if self.where else ""
        return f"COPY (SELECT {columns} FROM {source}{condition}) TO STDOUT;"  # noqa: S608


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PROC = (
    "oid proname pronamespace:pg_namespace proowner:pg_authid prolang:pg_language"
    " provariadic:pg_type prosupport prokind prosecdef proleakproof proisstrict proretset"
    " provolatile proparallel prorettype:pg_type proargtypes:pg_type proallargtypes:pg_type"
    " proargmodes proconfig proacl"
)
TABLES: dict[str, Table] = {
    # Of the whole cluster
    "pg_authid": Table(
        _words(
            "oid rolname rolsuper rolinherit rolcreaterole rolcreatedb rolcanlogin rolreplication"
            " rolbypassrls rolpassword"
        )
    ),
    "pg_auth_members": Table(_words("roleid:pg_authid member:pg_authid admin_option")),
    "pg_database": Table(
        _words("oid datname datdba datistemplate datallowconn datconnlimit datacl")
    ),
    "pg_db_role_setting": Table(_words("setdatabase setrole setconfig")),
    "pg_shdescription": Table(
        _words("objoid classoid description"), where="classoid = '1260'"
    ),  # of roles
    "pg_parameter_acl": Table(_words("oid parname paracl"), since=15),
    "pg_subscription": Table(_words("oid subname subdbid subowner")),
    # Of the server
    "file_settings": Table(
        _words("sourcefile name setting"), source="pg_catalog.pg_show_all_file_settings()"
    ),
    "hba": Table(
        _words("type database user_name address netmask auth_method options error"),
        source="pg_catalog.pg_hba_file_rules()",
    ),
    "ident": Table(
        _words("map_name sys_name pg_username"),
        source="pg_catalog.pg_ident_file_mappings()",
        since=15,
    ),
    # Of one database
    "pg_namespace": Table(_words("oid nspname nspowner:pg_authid nspacl")),
    "pg_language": Table(
        _words(
            "oid lanname lanowner:pg_authid lanispl lanpltrusted lanplcallfoid:pg_proc"
            " laninline:pg_proc lanvalidator:pg_proc lanacl"
        )
    ),
    "pg_proc": Table((*_words(_PROC), "prosrc", "probin", "proargdefaults"), f"oid {_BUILTIN}"),
    # An application's functions may be as long as it likes.
    "others_proc": Table(
        (*_words(_PROC), "pg_catalog.md5(prosrc)", "pg_catalog.md5(probin)"),
        f"oid >= '{FIRST_OF_USERS}'",
        source="pg_catalog.pg_proc",
    ),
    "proc_body": Table(
        _words("oid:pg_proc prosqlbody"),
        f"oid {_BUILTIN} AND prosqlbody IS NOT NULL",
        since=14,
        source="pg_catalog.pg_proc",
    ),
    "pg_type": Table(
        _words(
            "oid typname typnamespace:pg_namespace typowner:pg_authid typtype typcategory"
            " typispreferred typrelid typelem:pg_type typinput typoutput typreceive typsend"
            " typmodin typmodout typanalyze typbasetype:pg_type typacl"
        )
    ),
    "pg_operator": Table(
        _words(
            "oid oprname oprnamespace:pg_namespace oprowner:pg_authid oprkind oprleft:pg_type"
            " oprright:pg_type oprresult:pg_type oprcom:pg_operator oprnegate:pg_operator oprcode"
            " oprrest oprjoin"
        )
    ),
    "pg_cast": Table(
        _words("oid castsource:pg_type casttarget:pg_type castfunc:pg_proc castcontext castmethod")
    ),
    "pg_am": Table(_words("oid amname amhandler amtype")),
    "pg_opfamily": Table(
        _words("oid opfmethod:pg_am opfname opfnamespace:pg_namespace opfowner:pg_authid")
    ),
    "pg_opclass": Table(
        _words(
            "oid opcmethod:pg_am opcname opcnamespace:pg_namespace opcowner:pg_authid"
            " opcfamily:pg_opfamily opcintype:pg_type opcdefault opckeytype:pg_type"
        )
    ),
    "pg_amop": Table(
        _words(
            "amopfamily:pg_opfamily amoplefttype:pg_type amoprighttype:pg_type amopstrategy"
            " amoppurpose amopopr:pg_operator amopmethod:pg_am"
        ),
        f"amopfamily {_BUILTIN}",
    ),
    "pg_amproc": Table(
        _words(
            "amprocfamily:pg_opfamily amproclefttype:pg_type amprocrighttype:pg_type amprocnum"
            " amproc"
        ),
        f"amprocfamily {_BUILTIN}",
    ),
    "pg_aggregate": Table(
        _words(
            "aggfnoid aggkind aggtransfn aggfinalfn aggcombinefn aggserialfn aggdeserialfn"
            " aggmtransfn aggminvtransfn aggmfinalfn aggsortop:pg_operator aggtranstype:pg_type"
            " agginitval"
        )
    ),
    "pg_conversion": Table(
        _words(
            "oid conname connamespace:pg_namespace conowner:pg_authid conforencoding"
            " contoencoding conproc condefault"
        )
    ),
    "pg_ts_parser": Table(
        _words(
            "oid prsname prsnamespace:pg_namespace prsstart prstoken prsend prsheadline prslextype"
        )
    ),
    "pg_ts_template": Table(_words("oid tmplname tmplnamespace:pg_namespace tmplinit tmpllexize")),
    "pg_transform": Table(_words("oid trftype:pg_type trflang:pg_language trffromsql trftosql")),
    "pg_event_trigger": Table(
        _words("oid evtname evtevent evtowner:pg_authid evtfoid:pg_proc evtenabled")
    ),
    "pg_foreign_data_wrapper": Table(
        _words("oid fdwname fdwowner:pg_authid fdwhandler:pg_proc fdwvalidator:pg_proc fdwacl")
    ),
    "pg_foreign_server": Table(
        _words("oid srvname srvowner:pg_authid srvfdw:pg_foreign_data_wrapper srvacl")
    ),
    "pg_user_mapping": Table(_words("oid umuser umserver:pg_foreign_server umoptions")),
    "pg_extension": Table(_words("oid extname extowner extnamespace:pg_namespace extversion")),
    "pg_depend": Table(
        _words("classid objid deptype refobjid"),
        "deptype = 'e' OR deptype = 'i' AND classid = '1255'",
    ),
    "pg_default_acl": Table(_words("oid defaclrole defaclnamespace defaclobjtype defaclacl")),
    "pg_class": Table(
        _words(
            "oid relname relnamespace:pg_namespace relowner:pg_authid relkind relpersistence"
            " relam:pg_am relacl relrowsecurity relforcerowsecurity"
        ),
        f"oid {_BUILTIN} OR relnamespace IN {_SYSTEM_SCHEMAS} OR oid IN {_MEMBER_RELATIONS}",
    ),
    # What hangs on built-in relations
    "pg_attribute": Table(
        _words("attrelid:pg_class attname atttypid:pg_type attnum attacl"),
        f"attrelid {_BUILTIN} AND attacl IS NOT NULL",
    ),
    "pg_attrdef": Table(_words("adrelid:pg_class adnum adbin"), f"adrelid {_BUILTIN}"),
    "pg_index": Table(
        _words("indrelid:pg_class indexrelid:pg_class indexprs indpred"),
        f"indrelid {_BUILTIN} AND (indexprs IS NOT NULL OR indpred IS NOT NULL)",
    ),
    "pg_rewrite": Table(
        _words("ev_class:pg_class rulename ev_type ev_enabled is_instead ev_qual ev_action"),
        f"ev_class {_BUILTIN}",
    ),
    "pg_trigger": Table(
        _words("tgrelid:pg_class tgname tgfoid:pg_proc tgtype tgenabled tgqual"),
        f"tgrelid {_BUILTIN}",
    ),
    "pg_policy": Table(
        _words("polrelid:pg_class polname polcmd polqual polwithcheck"), f"polrelid {_BUILTIN}"
    ),
    "pg_constraint": Table(
        _words("conrelid:pg_class contypid:pg_type conname contype conbin"),
        f"conrelid {_BUILTIN} AND contypid {_BUILTIN} AND contype = 'c'",
    ),
}
# Catalogs by their numbers, which PostgreSQL never changes.
CLASSES = {
    "1247": "pg_type", "1255": "pg_proc", "1259": "pg_class", "1417": "pg_foreign_server",
    "2328": "pg_foreign_data_wrapper", "2601": "pg_am", "2605": "pg_cast", "2607": "pg_conversion",
    "2612": "pg_language", "2615": "pg_namespace", "2616": "pg_opclass", "2617": "pg_operator",
    "2753": "pg_opfamily", "3466": "pg_event_trigger", "3576": "pg_transform",
    "3601": "pg_ts_parser", "3764": "pg_ts_template",
}  # fmt: skip
READ = FIND_SUPERUSER + (
    ' has() { [ "$version" -ge "$1" ] && echo true || echo false; };'
    " env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --tuples-only --no-align"
    ' --username "$superuser" --set ON_ERROR_STOP=1 --set has14="$(has 140000)"'
    f' --set has15="$(has 150000)" --file - | head --bytes {MOST_BYTES}'
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ARRAY = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)
# Needs no quotes in SQL.
# Also an operator's: it is of these characters alone, and has no quotes in SQL.
_PLAIN = re.compile(r"(?:[a-z_][a-z0-9_$]*|[-+*/<>=~!@#%^&|`?]+)\Z")
Row = Mapping[str, Any]


def parse_field(text: str) -> str | None:
    """Return a value of COPY's text format; None for NULL."""
    return None if text == "\\N" else unescape(text)


def parse_array(text: str | None) -> list[str]:
    """Return the elements of an array of texts as PostgreSQL writes it; nothing of NULL."""
    return [
        _ESCAPED.sub(r"\1", quoted) if quoted or not bare else bare
        for quoted, bare in _ARRAY.findall(text or "")
    ]


def script(mark: str) -> str:
    """Return the statements that read all of :data:`TABLES`, one after the other.

    Args:
        mark: begins the line before each; in no value, thus random.
    """
    lines = [
        "SET log_statement = 'none'; SET log_min_duration_statement = -1;",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
    ]
    for name, table in TABLES.items():
        lines += [f"\\if :has{table.since}"] if table.since else []
        lines += [f"\\echo {mark} {name}", table.statement(name)]
        lines += ["\\endif"] if table.since else []
    return "\n".join([*lines, "COMMIT;", f"\\echo {mark} end", ""])


def parse(text: str, mark: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table of what :func:`script` answers.

    Raises:
        BackupError: it is not whole.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for line in text.split("\n"):
        if line.startswith(mark):
            name = line[len(mark) + 1 :]
            if name == "end":
                return found
            rows, names = found[name], TABLES[name].names()
        elif names and line:
            fields = line.split("\t")
            if len(fields) != len(names):
                raise BackupError("PostgreSQL's catalogs cannot be read: a row has other columns")
            rows.append({name: parse_field(each) for name, each in zip(names, fields)})  # noqa: B905
    raise BackupError("PostgreSQL's catalogs cannot be read: the answer broke off")


@dataclass
class Catalog:
    """The catalogs of one database, whose numbers have become names.

    Args:
        database: its name.
        rows: rows by table, as :func:`parse` returns them.
    """

    database: str
    rows: Mapping[str, list[dict[str, Any]]]
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    # (table, number) -> name of the extension that it is a member of
    members: dict[tuple[str, str], str] = field(default_factory=dict)
    internal: set[str] = field(default_factory=set)  # functions that belong to a type

    def __post_init__(self) -> None:
        """Index what is referred to."""
        rows = self.rows
        self.superusers = {row["oid"] for row in rows["pg_authid"] if row["rolsuper"] == "t"}
        self.roles = {row["oid"]: row["rolname"] for row in rows["pg_authid"]}
        self.super_names = {self.roles[oid] for oid in self.superusers}
        names = self.names
        names["pg_authid"] = {
            oid: "~" if oid in self.superusers else name for oid, name in self.roles.items()
        }
        names["pg_namespace"] = {row["oid"]: row["nspname"] for row in rows["pg_namespace"]}
        for table, column in (
            ("pg_language", "lanname"),
            ("pg_am", "amname"),
            ("pg_foreign_data_wrapper", "fdwname"),
            ("pg_foreign_server", "srvname"),
        ):
            names[table] = {row["oid"]: row[column] for row in rows[table]}
        for table, prefix, column in (
            ("pg_type", "typ", "typname"),
            ("pg_class", "rel", "relname"),
        ):
            names[table] = {
                row["oid"]: self.qualified(row[f"{prefix}namespace"], row[column])
                for row in rows[table]
            }
        self._sql_types = {
            row["oid"]: self.sql_name(row["typnamespace"], row["typname"])
            for row in rows["pg_type"]
        }
        names["pg_opfamily"] = {
            row["oid"]: f"{self.qualified(row['opfnamespace'], row['opfname'])} USING"
            f" {names['pg_am'].get(row['opfmethod'], '?')}"
            for row in rows["pg_opfamily"]
        }
        names["pg_operator"] = {
            row["oid"]: f"{self.qualified(row['oprnamespace'], row['oprname'])}"
            f" ({self.types(row['oprleft'])}, {self.types(row['oprright'])})"
            for row in rows["pg_operator"]
        }
        names["pg_proc"] = {
            row["oid"]: f"{self.qualified(row['pronamespace'], row['proname'])}"
            f"({self.types(row['proargtypes'])})"
            for row in (*rows["pg_proc"], *rows["others_proc"])
        }
        extensions = {row["oid"]: row["extname"] for row in rows["pg_extension"]}
        for row in rows["pg_depend"]:
            if row["deptype"] == "e":
                table = CLASSES.get(row["classid"], row["classid"])
                self.members[table, row["objid"]] = extensions.get(row["refobjid"], "?")
            elif row["deptype"] == "i":
                self.internal.add(row["objid"])

    def qualified(self, schema: str, name: str) -> str:
        """Return a name with its schema's, which PostgreSQL's own do not need.

        A name that is not plain has its quotes: no two objects are called the same.
        """
        told = self.names["pg_namespace"].get(schema, "?")
        return _shown(name) if told == "pg_catalog" else f"{_shown(told)}.{_shown(name)}"

    def sql_name(self, schema: str, name: str) -> str:
        """Return the name of an object for a statement: quoted, printable, with its schema."""
        place = sql_identifier(self.names["pg_namespace"].get(schema, "?"))
        return f"{place}.{sql_identifier(name)}"

    def sql_types(self, numbers: str | None) -> str:
        """Return the names of types, given as ``23 25``, for a statement."""
        found = re.findall(r"\d+", numbers or "")
        return ", ".join(self._sql_types.get(number, '"?"') for number in found)

    def types(self, numbers: str | None) -> str:
        """Return the names of types, given as ``23 25`` or ``{23,25}``."""
        found = re.findall(r"\d+", numbers or "")
        return ", ".join("NONE" if n == "0" else self.names["pg_type"].get(n, "?") for n in found)

    def extensions(self) -> list[tuple[str, str, str]]:
        """Return name, version and schema of each extension."""
        return sorted(
            (row["extname"], row["extversion"], self.names["pg_namespace"][row["extnamespace"]])
            for row in self.rows["pg_extension"]
        )


def _shown(name: str) -> str:
    """Return a name for people, with quotes where SQL asks for them."""
    return name if _PLAIN.match(name) else identifier(name)


def identifier(text: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + text.replace('"', '""') + '"'


def builtin(number: str | None) -> bool:
    """Return whether initdb has made the object with a number."""
    return int(number or 0) < FIRST_OF_USERS


def read_catalog(docker: Docker, container: str, database: str) -> Catalog:
    """Return the catalogs of a database, which the superuser reads.

    Raises:
        BackupError: PostgreSQL does not answer, or they have more than MOST_BYTES.
    """
    mark = f"crisper-{os.urandom(8).hex()}"
    # By the environment: a name given as an argument may be a connection to elsewhere.
    command = docker.inside(container, READ, PGDATABASE=database)
    what = f"The catalogs of the database {database!a} were not read"
    return Catalog(database, parse(docker.answer(what, command, script(mark).encode()), mark))
