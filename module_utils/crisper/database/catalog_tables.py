"""System catalogs of a PostgreSQL that are read, and the statements that read them. Python 3.9+."""

from __future__ import annotations

from dataclasses import dataclass

# Objects of initdb have smaller numbers.
FIRST_OF_USERS = 16384
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
        # All of it stands in this file: nothing of it comes from outside.
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
    "pg_replication_slots": Table(
        _words("slot_name plugin active"), source="pg_catalog.pg_get_replication_slots()"
    ),
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
