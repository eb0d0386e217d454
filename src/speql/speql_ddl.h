/*
 * speql_ddl.h: speculation gets out of the way of commands that need what it holds.
 */
#ifndef SPEQL_DDL_H
#define SPEQL_DDL_H

/* Installs the utility hook; called while preloading. */
extern void speql_ddl_install(void);

#endif /* SPEQL_DDL_H */
