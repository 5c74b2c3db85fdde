package locallambda

func serviceMain() {}
