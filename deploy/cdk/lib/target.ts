import { Stack, Token } from "aws-cdk-lib";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as lambda from "aws-cdk-lib/aws-lambda";
import { Construct } from "constructs";
import { LambdaDispatchFunction } from "./function.js";

/** What routers invoke, and what they have to know of it. */
export interface Target {
  /** As Lambda's API takes it: name or name:qualifier. */
  readonly name: string;
  readonly arn: string;
  /** Who connects to the callback port. */
  readonly environments: ec2.IConnectable;
  /** Another one for each version, as far as this app knows versions. */
  readonly version?: string;
  /** Environments that are reserved, as far as this app knows. */
  readonly reserved?: number;
}

export function targetOf(
  scope: Construct,
  given: LambdaDispatchFunction | lambda.IFunction,
  securityGroup?: ec2.ISecurityGroup,
): Target {
  const invoked = given instanceof LambdaDispatchFunction ? given.alias : given;
  if (invoked instanceof lambda.Version && Stack.of(invoked) !== Stack.of(scope)) {
    throw new Error(
      `${scope.node.path}: the version ${invoked.node.path} is another one with each deployment, ` +
        "which CloudFormation does not allow of what another stack uses: pass an alias instead",
    );
  }
  const fn = invoked instanceof lambda.QualifiedFunctionBase ? invoked.lambda : invoked;
  return {
    name: nameOf(invoked),
    arn: invoked.functionArn,
    environments: securityGroup ? new ec2.Connections({ securityGroups: [securityGroup] }) : environmentsOf(scope, fn),
    version: versionOf(invoked),
    reserved: reservedOf(fn),
  };
}

/** The name with its qualifier, which functionName lacks if the function was imported by a qualified ARN. */
function nameOf(invoked: lambda.IFunction): string {
  // arn:aws:lambda:region:account:function:name[:qualifier]
  const parts = invoked.functionArn.split(":");
  return parts.length > 6 ? parts.slice(6).join(":") : invoked.functionName;
}

// An alias has no connections, its function does.
function environmentsOf(scope: Construct, fn: lambda.IFunction): ec2.IConnectable {
  if (fn.isBoundToVpc) return fn;
  throw new Error(
    `${scope.node.path}: ${fn.node.path} has no security group that is known here, and only its environments may ` +
      "reach the routers' callback port. Give the function the routers' VPC; if it is imported, pass " +
      "functionSecurityGroup, or import it with Function.fromFunctionAttributes and a securityGroup",
  );
}

/**
 * The logical ID of the alias's version, which has a hash of the function in it. Its number would
 * do too, but across stacks that is an export that changes, and CloudFormation refuses
 * to change what another stack imports:
 * https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-stack-exports.html
 */
function versionOf(invoked: lambda.IFunction): string | undefined {
  if (!(invoked instanceof lambda.Alias)) return undefined;
  const version = invoked.version.node.defaultChild;
  return version instanceof lambda.CfnVersion ? version.logicalId : undefined;
}

function reservedOf(fn: lambda.IFunction): number | undefined {
  const resource = fn.node.defaultChild;
  if (!(resource instanceof lambda.CfnFunction)) return undefined;
  const reserved = resource.reservedConcurrentExecutions;
  return Token.isUnresolved(reserved) ? undefined : reserved;
}
