# Forms of co_await that g++ 12 compiles wrongly: what they name is destroyed twice, or the coroutine goes on in the wrong place.
# Read by tests/gate/run, which shows on bad.cpp and good.cpp that each rule finds its form and no other.
set output diag
set bind-root false
# A braced or aggregate temporary with something to destroy.
match coawaitExpr(isExpansionInMainFile(), hasDescendant(initListExpr(hasType(hasUnqualifiedDesugaredType(recordType()))).bind("aggregate")))
# A lambda that captures, where it stands; references alone are harmless, so the runner lets [&] pass.
match coawaitExpr(isExpansionInMainFile(), hasDescendant(lambdaExpr(hasAnyCapture(lambdaCapture())).bind("lambda")))
# A conditional operator of class type.
match coawaitExpr(isExpansionInMainFile(), hasDescendant(conditionalOperator(hasType(hasUnqualifiedDesugaredType(recordType()))).bind("conditional")))
# An await in the condition of an if or a switch; a while with a declaration is compiled well.
match ifStmt(isExpansionInMainFile(), hasCondition(expr(anyOf(coawaitExpr(), hasDescendant(coawaitExpr()))).bind("condition")))
match switchStmt(isExpansionInMainFile(), hasCondition(expr(anyOf(coawaitExpr(), hasDescendant(coawaitExpr()))).bind("condition")))
# An await inside braces that build something.
match initListExpr(isExpansionInMainFile(), hasDescendant(coawaitExpr().bind("in_braces")))
# A braced list for an initializer_list.
match coawaitExpr(isExpansionInMainFile(), hasDescendant(cxxStdInitializerListExpr().bind("list")))
